"""`recover` on real networks and the shipped images: it helps, changes values only, and leaves all else as found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import blurify
from blurify import demo
from blurify.errors import ArgumentError, ArgumentTypeError, FileError, causes
from blurify.measure.consistency import accuracy, agreement, shifted_answers
from blurify.recovery import checking
from blurify.recovery import recover as recovering
from blurify.recovery.calls import Skip
from blurify.recovery.fits import FitSettings, LayerFit
from blurify.recovery.recover import Recovered
from blurify.zoo import failures
from tests.conftest import relative_error, run


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Digits as the shipped classifier takes them."""
    return demo.load_demo()[1][:96]


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    """Trained: what a random network gives says nothing of how near another is."""
    model = demo.load_demo()[0]
    return model, blurify.antialias(model, 4)


@pytest.fixture(scope="module")
def fields() -> Tensor:
    """Smooth random fields, which unlike noise have something left when they are blurred."""
    coarse = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=32, mode="bicubic", align_corners=False)


def test_it_comes_nearer_to_the_original(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    original, converted = networks
    before = copy.deepcopy(converted.state_dict())
    found = blurify.recover(original, converted, pictures)
    new = demo.load_demo()[1][500:600]
    carried = relative_error(run(original, new), run(converted, new))
    assert found.errors["lstsq"] < 0.7 * found.errors["carried"]
    assert relative_error(run(original, new), run(found.model, new)) < carried
    assert all(torch.equal(value, before[name]) for name, value in converted.state_dict().items())
    assert list(found.model.state_dict()) == list(before)
    assert found.model.meta["blurify"] == converted.meta["blurify"]
    assert all(fit.after < fit.before for fit in found.fitted)
    assert {fit.skip for fit in found.layers if fit.ridge is None} <= {Skip.NOT_BETTER}


def test_the_same_seed_gives_the_same_weights_in_memory_and_in_files(
    networks: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    random_state = torch.get_rng_state()
    one, other = (blurify.recover(*networks, pictures, memory=memory) for memory in (1 << 30, 40 << 20))
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in one.model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


def test_layers_before_every_blur_keep_their_weights(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    original, converted = networks
    first = next(name for name, module in original.named_modules() if isinstance(module, nn.Conv2d))
    found = blurify.recover(original, converted, pictures)
    assert first not in {fit.layer for fit in found.layers}
    assert torch.equal(found.model.get_submodule(first).weight, original.get_submodule(first).weight)


@pytest.mark.parametrize("bias", [True, False], ids=["its own bias", "the norm's mean"])
def test_what_is_added_goes_to_the_right_place(bias: bool, fields: Tensor) -> None:
    original = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4)).eval()
    found = blurify.recover(original, blurify.antialias(original, 5), fields)
    used = fields[: -FitSettings().held_out_of(len(fields))]
    wanted, given = (run(network, used).mean((0, 2, 3)) for network in (original, found.model))
    # An intercept takes the mean of what is left over to nothing.
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=0)
    changed = {n for n, v in found.model.state_dict().items() if not torch.equal(v, original.state_dict()[n])}
    assert changed == {"1.weight", "1.bias" if bias else "2.running_mean"}


class Shared(nn.Module):
    """One conv called at two places behind a blur, and a linear layer that reads a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.between = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(torch.relu(self.stem(x)))).relu_()
        x = self.conv(self.pool(self.between(x)).relu_())
        return self.head(self.pool(x).flatten(1))


def test_a_shared_conv_is_fitted_once_for_both_calls(fields: Tensor) -> None:
    original = Shared().eval()
    found = blurify.recover(original, blurify.antialias(original, 3), fields)
    assert [fit.layer for fit in found.layers] == ["conv", "between", "head"]
    assert found.errors["lstsq"] < found.errors["carried"]


def test_batch_norms_alone(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    original, converted = networks
    found = blurify.recover(original, converted, pictures, method="bn")
    changed = {n for n, v in found.model.state_dict().items() if not torch.equal(v, converted.state_dict()[n])}
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    # What does not help is taken back.
    assert (found.errors["bn"] < found.errors["carried"]) == bool(changed)


def test_frozen_batch_norms_are_estimated_if_asked(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    class Frozen(type(networks[0])):  # type: ignore[misc]
        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return self

    original = copy.deepcopy(networks[0])
    original.__class__ = Frozen
    converted = blurify.antialias(original, 4)
    kept = blurify.recover(original, converted, pictures, method="bn")
    asked = blurify.recover(original, converted, pictures, method="bn", frozen_norms=True)
    plain = blurify.recover(*networks, pictures, method="bn")
    assert kept.errors["bn"] == kept.errors["carried"]
    assert asked.errors["bn"] == plain.errors["bn"] != plain.errors["carried"]


def test_distilling_lowers_the_error(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    original, converted = networks
    flags = [p.requires_grad for p in converted.parameters()]
    found = blurify.recover(original, converted, pictures, method="distill")
    assert found.errors["distill"] < found.errors["carried"]
    assert [p.requires_grad for p in found.model.parameters()] == flags
    assert not any(p.grad is not None for p in found.model.parameters())


def test_a_checkpoint_of_something_else_is_refused(
    networks: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    original, converted = networks
    options: dict[str, Any] = {"method": "distill", "epochs": 1}
    (tmp_path / "broken").write_bytes(b"something else")
    with pytest.raises(FileError, match="is no checkpoint of this network's training; remove it to start again"):
        blurify.recover(*networks, pictures[:20], checkpoint=tmp_path / "broken", **options)
    blurify.recover(*networks, pictures[:20], checkpoint=str(tmp_path / "other"), **options)
    for other, images in ((converted, pictures[1:21]), (blurify.antialias(original, 3), pictures[:20])):
        with pytest.raises(FileError, match="was left by a recovery with other weights, blurs, images, labels, seed"):
            blurify.recover(original, other, images, checkpoint=tmp_path / "other", **options)


def refused(networks: tuple[nn.Module, nn.Module], images: object, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        blurify.recover(*networks, images)  # type: ignore[arg-type]


def test_pictures_that_tell_nothing_are_refused(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    refused(networks, pictures[:1], ArgumentError, "and there are 1; give 64 or more")
    refused(networks, pictures[:1].expand(8, -1, -1, -1), ArgumentError, "All 8 images are the same")
    refused(networks, torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 40, 40), ArgumentError, "8 images are blank")
    refused(networks, pictures * torch.nan, ArgumentError, "hold values that are not finite")
    refused(networks, pictures.to(torch.uint8), ArgumentTypeError, r"images must be a float tensor \[N, ...\]")
    refused(networks, "pictures", ArgumentTypeError, "got str")


def test_models_that_do_not_belong_together_are_refused(
    networks: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    original, converted = networks
    refused(
        (torchvision.models.resnet18(), converted), pictures, ArgumentError, "do not belong together: '.*' is not in"
    )
    other = copy.deepcopy(original)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.01)
    refused((other, converted), pictures, ArgumentError, "not one weight is the same in both")
    refused((original, original), pictures, ArgumentTypeError, "converted must be what blurify.antialias returned")


@pytest.mark.parametrize("method", ["lstsq", "bn", "distill"])
@pytest.mark.parametrize("layer", ["stem", "head"])
def test_values_that_are_not_finite_name_the_layer(method: str, layer: str, fields: Tensor) -> None:
    original = Shared().eval()
    with torch.no_grad():
        original.get_submodule(layer).bias.fill_(torch.nan)
    with pytest.raises(ArgumentError, match=f"not finite at '{layer}'; look at the images and the weights"):
        blurify.recover(original, blurify.antialias(original, 3), fields, method=method)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"memory": 0}, ArgumentError, "memory must be at least 1, got 0."),
        ({"memory": "4GB"}, ArgumentTypeError, "memory must be a whole number, got '4GB'."),
        ({"batch_size": 0}, ArgumentError, "batch_size must be at least 1, got 0."),
        ({"seed": -1}, ArgumentError, "seed must be at least 0, got -1."),
        ({"held_out": 0.0}, ArgumentError, "held_out must be above 0 and below 1, got 0.0."),
        ({"held_out": float("nan")}, ArgumentError, "held_out must be above 0 and below 1, got nan."),
        ({"epochs": 0}, ArgumentError, "epochs must be at least 1, got 0."),
        ({"epochs": 1.5}, ArgumentTypeError, "epochs must be a whole number, got 1.5."),
        ({"rate": 0.0}, ArgumentError, "rate must be above 0 and finite, got 0.0."),
        ({"rate": float("inf")}, ArgumentError, "rate must be above 0 and finite, got inf."),
        (
            {"rate": "fast"},
            ArgumentTypeError,
            "rate must be a number, or None to go by the steps, got 'fast'.",
        ),
        ({"method": "magic"}, ArgumentError, "method must be one of lstsq, bn, distill, all, got 'magic'."),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(
    given: dict[str, object], kind: type[Exception], said: str, networks: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    with pytest.raises(kind) as caught:
        blurify.recover(*networks, pictures, **given)
    assert str(caught.value) == said


def test_pictures_that_the_network_does_not_take_are_refused(
    networks: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    said = r"original does not take these images \(float32 \[96, 3, 40, 40\] on cpu\): .* to have 1 channels"
    refused(networks, pictures.repeat(1, 3, 1, 1), ArgumentError, said)
    refused(networks, pictures.double(), ArgumentError, r"images \(float64 \[96, 1, 40, 40\] on cpu\)")
    refused(("a name", networks[1]), pictures, ArgumentTypeError, r"original must be a torch\.nn\.Module, got str")


def test_few_pictures_say_how_many_are_wanted(fields: Tensor) -> None:
    original = Shared().eval()
    found = blurify.recover(original, blurify.antialias(original, 3), fields)
    head = found.layers[-1]
    assert (head.unknowns, head.rows) == (128, 19)
    assert found.pictures_wanted == head.pictures_wanted > 128
    assert f"{found.pictures_wanted} images are enough" in str(found)


def test_a_layer_too_large_for_the_budget_is_kept(networks: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    found = blurify.recover(*networks, pictures, memory=1 << 20)
    kept = {fit.layer: fit.skip for fit in found.layers if fit.ridge is None}
    assert Skip.TOO_LARGE in kept.values()
    assert found.errors["lstsq"] < found.errors["carried"]
    assert "do not fit into the memory budget, and a memory of " in str(found)


def test_a_memory_that_holds_no_equations_says_what_would(
    networks: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    with pytest.raises(ArgumentError, match=r"A memory of 1KB is too small to fit any layer; \S+MB is enough"):
        blurify.recover(*networks, pictures, memory=1000)
    wanted = max(fit.memory for fit in blurify.recover(*networks, pictures, memory=1 << 20).layers)
    enough = blurify.recover(*networks, pictures, memory=wanted)
    assert Skip.TOO_LARGE not in {fit.skip for fit in enough.layers}
    assert Skip.TOO_LARGE in {fit.skip for fit in blurify.recover(*networks, pictures, memory=wanted - 2).layers}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA: can't allocate 3 GB")])
def test_running_out_of_memory_says_what_would_fit(error: Exception, networks, pictures, monkeypatch) -> None:
    monkeypatch.setattr(recovering, "check_finite", failing(error))
    with pytest.raises(checking.OutOfMemoryError) as caught:
        blurify.recover(*networks, pictures, memory=4 * 10**9, batch_size=16)
    assert str(caught.value) == (
        "Memory ran out with a budget of 4GB and batches of 16 images; 2GB and batches of 8 take half of it."
    )
    assert list(causes(caught.value)) == [caught.value, error]


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ArgumentError("no.")])
def test_another_error_is_not_its_own_cause(error: Exception, networks, pictures, monkeypatch) -> None:
    monkeypatch.setattr(recovering, "check_finite", failing(error))
    with pytest.raises(type(error)) as caught:
        blurify.recover(*networks, pictures)
    assert caught.value is error
    assert error.__cause__ is None
    assert failures.kind_of(error) == "error"


def failing(error: Exception) -> Callable[..., None]:
    """Return a function that raises the error."""

    def fail(*_: object) -> None:
        raise error

    return fail


def test_the_shipped_classifier_recovers() -> None:
    """Trained, on real images: no answer is lost that the blurs had taken, and the two shifts agree more often."""
    model, digits, labels = demo.load_demo()
    smooth = blurify.antialias(model, 4)
    found = blurify.recover(model, smooth, digits[:128])
    rest, wanted = digits[128:], labels[128:]
    framed = nn.functional.pad(rest, (4,) * 4)

    def measured(network: nn.Module) -> tuple[float, float]:
        right = accuracy(network, rest, wanted).mean()
        same = agreement(shifted_answers(network, framed, 40, rounds=1)).mean()
        return float(right), float(same)

    before, carried, after = map(measured, (model, smooth, found.model))
    assert after[0] > carried[0]
    assert after[0] > before[0] - 0.01
    assert after[1] > before[1]


def test_a_fit_that_is_taken_back_is_said_and_no_layer_counts_as_fitted() -> None:
    layers = (LayerFit("conv", 0.2, 0.1, ridge=1.0),)
    kept, back = (Recovered(nn.Identity(), layers, {}, {"carried": 0.2, "lstsq": x}, {}, 9) for x in (0.1, 0.3))
    assert kept.fitted == layers
    assert back.fitted == ()
    assert str(kept).startswith("1 of 1 layers")
    assert str(back).startswith("0 of 1 layers")
    said = "the result of lstsq was discarded, because it does not lower that error"
    assert said in str(back)
    assert said not in str(kept)
