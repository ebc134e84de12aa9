"""A converted model of its own class computes what the graph form computes, and is used as the original is."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.zoo import models
from blurify import Plan, antialias, load, plan, save, verify
from blurify.errors import ArgumentTypeError, NoEffectWarning, PlanError
from blurify.graph.hosts import AFTER, BEFORE, BlurWrapper, can_host, make_host, rebuild
from blurify.layers import BlurPool2d
from blurify.sites import Reason
from blurify.verifying.outputs import tensors_in
from tests.conftest import randomize_statistics, tiered
from tests.models.families import FAMILIES

SOME = (
    "timm:byobnet",
    "timm:convnext",
    "timm:densenet",
    "timm:efficientnet",
    "timm:fastvit",
    "timm:mobilenetv3",
    "timm:nfnet",
    "timm:resnet",
    "timm:vgg",
    "torchvision:resnet",
    "torchvision:swin_transformer",
)
# The others' constructs are those of more layers.
EVERYDAY = ("timm:byobnet", "timm:convnext", "timm:mobilenetv3", "timm:nfnet", "timm:resnet", "timm:vgg")


def outputs(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors_in(model(*inputs)))


def assert_equal(one: nn.Module, other: nn.Module, *inputs: Tensor) -> None:
    pairs = list(zip(outputs(one, *inputs), outputs(other, *inputs), strict=True))
    assert pairs
    assert all(torch.equal(a, b) and a.std() > 0 for a, b in pairs)


@pytest.mark.parametrize("family", tiered(SOME, *EVERYDAY))
def test_a_family_gives_what_its_graph_form_gives(family: str) -> None:
    network = FAMILIES[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.make(f"{family.partition(':')[0]}:{network.architecture}", "cpu", **network.sizes)
    model = randomize_statistics(model)
    inputs = torch.randn(2, *network.shapes[0])
    options: dict[str, Any] = {"stem": True, "patch_embed": True, "example_inputs": inputs}
    graph = antialias(model, optimize=False, **options)
    kept = antialias(model, form="class", optimize=False, **options)
    assert type(kept) is type(model)
    assert list(kept.state_dict()) == list(model.state_dict())
    assert kept.meta["blurify"] == graph.meta["blurify"]
    assert_equal(graph, kept, inputs)
    with pytest.raises((RuntimeError, AssertionError)):
        assert_equal(model, kept, inputs)
    # Training draws the same numbers in the same order.
    torch.manual_seed(1)
    expected = outputs(graph.train(), inputs)
    torch.manual_seed(1)
    assert all(map(torch.equal, expected, outputs(kept.train(), inputs)))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_resnet").eval()
    return randomize_statistics(model)


@pytest.fixture
def kept(resnet: nn.Module) -> nn.Module:
    return antialias(resnet, keep_class=True)


X = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def test_the_methods_of_the_class_work(resnet: nn.Module, kept: Any) -> None:
    graph = antialias(resnet, optimize=False)
    with torch.no_grad():
        assert torch.equal(kept.forward_head(kept.forward_features(X)), graph(X))
        _, features = kept.forward_intermediates(X)
    assert [f.shape for f in features] == [f.shape for f in resnet.forward_intermediates(X)[1]]  # type: ignore[operator]
    assert kept.default_cfg == resnet.default_cfg
    assert kept.feature_info is not None
    kept.reset_classifier(7)
    assert kept(X).shape == (2, 7)
    assert kept.get_classifier().out_features == 7


def test_the_original_is_left_as_found(resnet: nn.Module) -> None:
    before = {name: dict(vars(module)) for name, module in resnet.named_modules()}
    antialias(resnet, keep_class=True)
    assert all(vars(module) == before[name] for name, module in resnet.named_modules())
    assert not any(isinstance(module, BlurWrapper) for module in resnet.modules())


def test_verify_proves_it(resnet: nn.Module, kept: nn.Module) -> None:
    assert verify(resnet, kept, X).ok
    next(module for module in kept.modules() if isinstance(module, BlurPool2d)).filt.mul_(1.1)
    assert not verify(resnet, kept, X).ok


def test_groups_of_parameters_are_the_originals(resnet: Any, kept: Any) -> None:
    from timm.models import group_parameters
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    assert group_parameters(kept, kept.group_matcher()) == group_parameters(resnet, resnet.group_matcher())
    for grouped in (param_groups_weight_decay, param_groups_layer_decay):
        sizes = [[len(group["params"]) for group in grouped(model)] for model in (kept, resnet)]
        assert sizes[0] == sizes[1]
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1)
    kept_vit: Any = antialias(vit, patch_embed=True, keep_class=True)
    assert kept_vit.no_weight_decay() == vit.no_weight_decay() != set()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_feature_pyramids(name: str) -> None:
    model = timm.create_model(name, features_only=True).eval()
    kept: Any = antialias(model, form="class", optimize=False)
    assert type(kept) is type(model)
    assert kept.feature_info.channels() == model.feature_info.channels()
    assert_equal(antialias(model, optimize=False), kept, X)
    assert [f.shape for f in kept(X)] == [f.shape for f in model(X)]


def test_copies_and_pickles(kept: nn.Module, tmp_path: Path) -> None:
    twin = copy.deepcopy(kept)
    assert_equal(kept, twin, X)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in kept.parameters()}
    assert_equal(kept, pickle.loads(pickle.dumps(kept)), X)
    save(kept, tmp_path / "kept.pt")
    # The reader of files that nobody vouches for takes it too.
    assert type(load(tmp_path / "kept.pt")) is type(kept)


@pytest.mark.slow
def test_another_process_loads_it(kept: nn.Module, tmp_path: Path) -> None:
    save(kept, tmp_path / "kept.pt")
    torch.save((X, outputs(kept, X)[0]), tmp_path / "pair.pt")
    code = (
        "import torch; x, y = torch.load('pair.pt'); model = torch.load('kept.pt', weights_only=False);"
        "torch.testing.assert_close(model(x), y)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=100)


def test_it_compiles_whole(kept: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(kept, fullgraph=True, backend="eager")
        torch.testing.assert_close(outputs(compiled, X)[0], outputs(kept, X)[0])


def test_other_norms_still_blur(resnet: nn.Module) -> None:
    kept = antialias(torchvision.models.resnet18().eval(), keep_class=True)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(kept)).eval()
    assert_equal(kept, synchronised, X)


def test_an_optimizer_made_before_goes_on(resnet: nn.Module) -> None:
    model = copy.deepcopy(resnet)
    kept = antialias(model, keep_class=True, inplace=True)
    assert all(mine is theirs for mine, theirs in zip(kept.parameters(), model.parameters(), strict=True))
    assert not any(isinstance(module, BlurWrapper) for module in model.modules())


def test_a_second_run_changes_nothing(kept: nn.Module) -> None:
    with pytest.warns(NoEffectWarning):
        again = antialias(kept, keep_class=True)
    assert_equal(kept, again, X)
    # The stem can be asked for later.
    later = antialias(kept, keep_class=True, stem=True)
    assert "conv1.0" in {d.site for d in later.meta["blurify"].rewritten}


def test_a_second_run_knows_every_blur() -> None:
    model = torchvision.models.resnet18()
    rewritten = antialias(model, keep_class=True)
    reasons = {d.reason for d in plan(rewritten).decisions}
    assert reasons == {Reason.STEM, Reason.ALREADY_ANTIALIASED}


class Net(nn.Module):
    """A stem, and then what `then` does with modules of every kind."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv, self.other = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1)
        self.pool, self.relu = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ReLU()
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.then(self, self.stem(x))
        return result


HELD = {
    "pool called twice": lambda m, x: m.pool(m.pool(x)),
    "conv called twice": lambda m, x: m.other(m.relu(m.conv(m.relu(m.conv(x))))),
    "function then module": lambda m, x: m.other(F.relu(m.conv(x))),
    "two readers": lambda m, x: (lambda y: m.other(y) + m.relu(y))(F.gelu(m.conv(x))),
    "nothing but the conv": lambda m, x: m.conv(x).flip(2),
    "zero added": lambda m, x: (0 + m.conv(x)).flip(2),
}
REFUSED = {
    "function": lambda m, x: F.max_pool2d(x, 2),
    "between functions": lambda m, x: F.softmax(F.relu(m.conv(x)), 1),
    "shared with another": lambda m, x: m.relu(x) + F.interpolate(m.relu(m.conv(x)), scale_factor=2.0, mode="area"),
    "taken twice": lambda m, x: torch.cat([F.relu(m.conv(x))] * 2),
    "a reader outside": lambda m, x: (lambda y: m.other(y) + y)(F.relu(m.conv(x))),
    "slice": lambda m, x: m.relu(x)[:, :, ::2, ::2],
}


@pytest.mark.parametrize("case", HELD)
def test_forms_that_modules_express(case: str) -> None:
    model = Net(HELD[case]).eval()
    kept = antialias(model, keep_class=True)
    assert len(kept.meta["blurify"].rewritten) >= 1
    assert_equal(antialias(model, optimize=False), kept, X[:, :, :41, :38])


@pytest.mark.parametrize("case", REFUSED)
def test_forms_that_modules_cannot_express(case: str) -> None:
    model = Net(REFUSED[case]).eval()
    (site,) = (decision.site for decision in plan(model).rewritten)
    with pytest.raises(PlanError, match=rf"express 1 of its 1 sites: '{site}' .*partial=True \(--partial\)\.$"):
        antialias(model, keep_class=True)
    kept = antialias(model, keep_class=True, partial=True)
    assert [d.site for d in kept.meta["blurify"].kept if d.reason is Reason.NO_MODULE] == [site]
    assert_equal(model, kept, X)


def test_one_kept_call_keeps_the_module() -> None:
    model = Net(HELD["conv called twice"])
    with pytest.raises(PlanError, match="called elsewhere"):
        antialias(model, exclude="conv", keep_class=True)


class OwnConv(nn.Module):
    """A convolution of its own class, which may pad by its stride."""

    def __init__(self, pads_by_stride: bool) -> None:
        super().__init__()
        self.weight, self.stride = nn.Parameter(torch.randn(4, 4, 3, 3)), 2
        self.pads_by_stride = pads_by_stride

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride, 3 - self.stride if self.pads_by_stride else 1)


def own_conv(pads_by_stride: bool) -> Net:
    model = Net(lambda m, x: m.relu(m.conv(x))).eval()
    model.conv = OwnConv(pads_by_stride)
    return model


def test_a_stride_that_is_only_a_stride_can_be_set() -> None:
    model = own_conv(False)
    assert_equal(antialias(model, optimize=False), antialias(model, keep_class=True), X)


def test_a_stride_that_means_more_cannot() -> None:
    with pytest.raises(PlanError, match="looks at the strides"):
        antialias(own_conv(True), keep_class=True)


def test_a_graph_has_no_class_to_keep() -> None:
    with pytest.raises(PlanError, match="the model's own graph"):
        antialias(torch.fx.symbolic_trace(Net(HELD["pool called twice"])), keep_class=True)


class Chooses(nn.Module):
    """Takes another way for large images, which is one way for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return F.relu(self.conv(x)) if x.shape[2] < 100 else self.pool(x)


def test_of_a_recorded_way_through_forward_no_class_is_made() -> None:
    model = Chooses().eval()
    graph = antialias(model, example_inputs=X)
    assert graph.meta["blurify_form"] == "graph"
    # The pool of the other way is in no plan, though the class would call it.
    assert [d.site for d in graph.meta["blurify"].decisions] == ["conv"]
    with pytest.raises(PlanError, match=r"one way through its forward, .* and the strided 'pool' is on another"):
        antialias(model, example_inputs=X, keep_class=True)


def test_a_host_blurs_on_both_sides() -> None:
    relu, blur = nn.ReLU(), BlurPool2d(filt_size=3)
    for name in (BEFORE, AFTER):
        assert can_host(relu, name)
        make_host(relu, name, copy.deepcopy(blur))
        assert not can_host(relu, name)
    twin = pickle.loads(pickle.dumps(relu))
    assert type(twin) is type(relu)
    assert torch.equal(twin(X), blur(F.relu(blur(X))))
    assert str(relu).count("BlurPool2d") == 2


@pytest.mark.parametrize("given", [(dict, (AFTER,)), (nn.ReLU, ("forward",)), (nn.ReLU, AFTER)])
def test_a_pickle_cannot_make_a_host_of_anything(given: tuple[Any, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="no class of modules that blur"):
        rebuild(*given, {})


def test_plans_say_what_was_left() -> None:
    kept = antialias(Net(REFUSED["function"]), keep_class=True, partial=True)
    made = kept.meta["blurify"]
    assert Plan.from_json(made.to_json()) == made
    assert "no module can be changed for it" in str(made)
