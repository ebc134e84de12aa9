"""Where a sum reads a layer, its target makes up for the sum's other part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

import blurify
from blurify import demo
from blurify.recovery import fitting
from blurify.recovery.calls import find_calls
from blurify.recovery.fits import FitSettings
from blurify.recovery.fitting import Refit, grouped
from blurify.recovery.joins import Join, join_of, ordered
from blurify.recovery.judging import outputs
from blurify.recovery.lockstep import Stepper
from blurify.recovery.recover import twins
from blurify.tracing import trace


class Residual(nn.Module):
    """A pool, and a 1x1 conv on it that is added to it: what the blur does to the sum, the conv could make good."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv, self.norm = nn.MaxPool2d(2), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        return pooled + self.norm(self.conv(pooled))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Smooth random fields, of which a blur leaves something."""
    coarse = torch.randn(40, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=32, mode="bicubic", align_corners=False)


def sum_error(found: nn.Module, original: nn.Module, pictures: Tensor) -> float:
    return float((outputs(found, pictures, 8) - outputs(original, pictures, 8)).square().sum())


def test_a_sum_comes_as_near_as_least_squares_can(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    original = Residual().eval()
    converted = blurify.antialias(original, 3, form="graph")
    monkeypatch.setattr(fitting, "LEAST_ROWS", 1 << 20)
    mended = blurify.recover(original, converted, pictures, held_out=0.1)
    with torch.no_grad():
        z = converted.get_submodule("pool_blur")(converted.get_submodule("pool")(pictures[:36]))
        wanted = original(pictures[:36])
    columns = torch.cat([z, torch.ones_like(z[:, :1])], 1).movedim(1, -1).flatten(0, -2).double()
    targets = wanted.movedim(1, -1).flatten(0, -2).double()
    best = torch.linalg.lstsq(columns, targets).solution
    least = float((columns @ best - targets).square().sum())
    assert sum_error(mended.model, original, pictures[:36]) == pytest.approx(least, rel=1e-3)
    monkeypatch.setattr(fitting, "ordered", lambda groups, stepper: (groups, {}))
    alone = blurify.recover(original, converted, pictures, held_out=0.1)
    assert sum_error(alone.model, original, pictures[:36]) > 1.4 * least


def test_a_shortcut_is_fitted_before_the_layer_that_makes_up_for_it() -> None:
    model = torchvision.models.resnet18().eval()
    _, student = twins(model, blurify.antialias(model), torch.rand(2, 3, 32, 32))
    stepper = Stepper(student)
    groups, joins = ordered(grouped(find_calls(student)[0]), stepper)
    paths = [group[0].path for group in groups]
    assert sorted(paths) == sorted(call.path for call in find_calls(student)[0])
    assert len(paths) == len(set(paths))
    mending = {call.path for (call,) in groups if call.node in joins}
    for block in ("layer2.0", "layer3.0", "layer4.0"):
        assert paths.index(f"{block}.downsample.0") < paths.index(f"{block}.conv2")
    assert mending == {f"layer{stage}.{block}.conv2" for stage in (1, 2, 3, 4) for block in (0, 1)}


class Shared(nn.Module):
    """A conv that is called twice in a row, and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv, self.last = nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(self.conv(self.pool(x))))


@pytest.mark.parametrize("make", [lambda: demo.load_demo()[0], Shared], ids=["shortcuts first", "shared"])
def test_passing_layers_on_trial_leaves_nothing_behind(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, digits = make().eval(), demo.load_demo()[1][:6]
    teacher, student = twins(model, blurify.antialias(model), digits)
    with torch.no_grad():
        refit = Refit(teacher, student, digits, FitSettings(batch_size=2))
        fits = [refit._fit(group, refit._passes_others(number)) for number, group in enumerate(refit.groups)]
        assert fits[0].ridge is not None
        (_, after), *_ = refit.fitting
        last = refit.groups[-1][0]
        assert torch.equal(
            refit.after.advance(after, last.node, through=True),
            Stepper(student).advance(Stepper(student).start(digits[:2]), last.node, through=True),
        )


class Overwritten(nn.Module):
    """A sum whose other part is changed in place after the layer that the sum reads, or is a view of what is."""

    def __init__(self, in_place: bool, viewed: bool) -> None:
        super().__init__()
        self.pool, self.conv, self.last = nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.in_place, self.viewed = in_place, viewed

    def forward(self, x: Tensor) -> Tensor:
        z = self.pool(x)
        seen = z.view_as(z) if self.viewed else z
        branch = self.conv(z)
        if not self.in_place:
            return self.last(branch + F.relu(z))
        F.relu_(z)
        return self.last(branch + seen)


@pytest.mark.parametrize("viewed", [False, True])
def test_what_is_written_in_place_is_read_as_the_sum_reads_it(viewed: bool, pictures: Tensor) -> None:
    models = []
    for in_place in (True, False):
        torch.manual_seed(0)
        models.append(Overwritten(in_place, viewed).eval())
    found, wanted = (blurify.recover(model, blurify.antialias(model, 3), pictures) for model in models)
    assert found.errors == pytest.approx(wanted.errors, rel=1e-5)
    assert wanted.errors["lstsq"] < wanted.errors["carried"]
    for name, value in found.model.state_dict().items():
        assert torch.allclose(value, wanted.model.state_dict()[name], rtol=1e-3, atol=1e-4), name


def added(between: Callable[[Tensor], Tensor]) -> nn.Module:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("variance", torch.tensor([1.0, 4.0, 4.0, 4e8]))

        def forward(self, x: Tensor) -> Tensor:
            return x + between(self, self.conv(x))  # type: ignore[call-arg, arg-type]

    return Added().eval()


def join_in(model: nn.Module) -> Join | None:
    traced = trace(model)
    conv = next(node for node in traced.eval_graph.nodes if str(node.target) == "conv")
    return join_of(conv, traced)


def test_what_lies_between_a_layer_and_its_sum() -> None:
    def normed(model: nn.Module, y: Tensor, of_the_batch: bool = False) -> Tensor:
        return F.batch_norm(y, model.mean, model.variance, None, None, of_the_batch, 0.1, 0.0)

    assert join_in(added(lambda model, y: y)).gain is None
    assert join_in(added(lambda model, y: F.relu(y))) is None
    assert join_in(added(lambda model, y: normed(model, normed(model, y)))) is None
    assert join_in(added(lambda model, y: normed(model, y, of_the_batch=True))) is None
    join = join_in(added(normed))
    assert torch.allclose(join.gain, torch.tensor([1.0, 0.5, 0.5, 5e-5]))
    missing = join.missing(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    # What hardly comes through the norm is not asked to be loud.
    assert missing[0, :, 0, 0].tolist() == [1.0, 2.0, 2.0, 0.0]
    # A last norm is often begun at zero, and nothing comes through it.
    silent = Join(join.other, join.sum, torch.zeros(4))
    assert silent.missing(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).abs().max() == 0


def test_a_constant_is_no_part_to_make_up_for() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + 1.0

    traced = fx.symbolic_trace(Shifted())
    conv = next(node for node in traced.graph.nodes if node.target == "conv")
    assert join_of(conv, traced) is None  # type: ignore[arg-type]
