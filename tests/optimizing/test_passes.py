"""Every pass: what it does, that it is exact, and that it does nothing where its law does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from blurify import verify
from blurify.graph.module import TracedModule
from blurify.optimizing import optimize_graphs
from tests.conftest import as_graph as antialias
from tests.conftest import randomize_statistics, relative_error, run, tiered


class Shortcut(nn.Module):
    """A map, and a strided 1x1 conv of it with something after."""

    def __init__(self, after: Callable[[], nn.Module], bias: bool = True, groups: int = 1, **padding: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 12, 1, 2, bias=bias, groups=groups, **padding)
        self.after = after()
        randomize_statistics(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.conv(self.stem(x)))


def norm() -> nn.Module:
    return nn.BatchNorm2d(12)


def both(model: nn.Module, **arguments: Any) -> tuple[TracedModule, TracedModule]:
    """The model converted without and with optimization."""
    return antialias(model, optimize=False, **arguments), antialias(model, **arguments)


def edits(model: TracedModule) -> tuple[str, ...]:
    """What was said of edits to the graph: running chains in parts is none."""
    return tuple(line for line in model.meta["optimized"] if "micro-batches" not in line)


def macs(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


class Functions(Shortcut):
    """The same of functions."""

    def __init__(self, training: bool = False, padding: int = 0, normed: bool = True) -> None:
        super().__init__(norm)
        self.training_norm, self.padding, self.normed = training, padding, normed

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.stem(x), self.conv.weight, self.conv.bias, 2, self.padding)
        if not self.normed:
            return x
        n = self.after
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, self.training_norm)


MOVES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "norm": (lambda: Shortcut(norm), {}),
    "nothing": (lambda: Shortcut(nn.Identity), {}),
    "grouped": (lambda: Shortcut(norm, groups=4), {}),
    "norm, then identity": (lambda: Shortcut(lambda: nn.Sequential(norm(), nn.Identity())), {}),
    "replicate": (lambda: Shortcut(norm), {"pad_type": "replicate"}),
    "circular": (lambda: Shortcut(norm), {"pad_type": "circular"}),
    "functions": (Functions, {}),
    "a function alone": (lambda: Functions(normed=False), {}),
    "zero, nothing added": (lambda: Shortcut(nn.Identity, bias=False), {"pad_type": "zero"}),
}


@pytest.mark.parametrize("filt_size", [2, 3, 4, 5])
@pytest.mark.parametrize("name", MOVES)
def test_a_blur_moves_before_a_pointwise_conv(name: str, filt_size: int) -> None:
    make, arguments = MOVES[name]
    model = make().eval()
    plain, optimized = both(model, filt_size=filt_size, **arguments)
    (said,) = edits(optimized)
    assert said in ("blur moved before the 1x1 conv at conv", "blur moved before the 1x1 conv at conv2d")
    assert plain.meta.get("optimized") is None
    for size in (1, 2, 5, 16, 33):
        x = torch.randn(2, 3, size, size + 1)
        assert relative_error(run(plain, x), run(optimized, x)) <= 1e-5
    x = torch.randn(1, 3, 32, 32)
    assert macs(optimized, x) < macs(plain, x)
    verdict = verify(model, optimized, x)
    assert verdict.ok, str(verdict)
    assert [shape.site for shape in verdict.shapes] == [said.split()[-1]]
    assert list(optimized.state_dict()) == list(model.state_dict())


class Hooked(Shortcut):
    def __init__(self) -> None:
        super().__init__(norm)
        self.conv.register_forward_hook(lambda module, args, output: output.relu())


STAYS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "a nonlinearity between": (lambda: Shortcut(nn.ReLU), {}),
    "a norm, then a nonlinearity": (lambda: Shortcut(lambda: nn.Sequential(norm(), nn.SiLU())), {}),
    "zero padding and a bias": (lambda: Shortcut(nn.Identity), {"pad_type": "zero"}),
    "zero padding and a norm": (lambda: Shortcut(norm, bias=False), {"pad_type": "zero"}),
    "statistics between": (lambda: Shortcut(lambda: nn.GroupNorm(4, 12)), {}),
    "a norm without running statistics": (lambda: Shortcut(lambda: nn.BatchNorm2d(12, track_running_stats=False)), {}),
    "dropout between": (lambda: Shortcut(nn.Dropout), {}),
    "a padded conv": (lambda: Shortcut(norm, padding=1), {}),
    "hooks": (Hooked, {}),
    "a function of batch statistics": (lambda: Functions(training=True), {}),
    "a padded function": (lambda: Functions(padding=1), {}),
    "zero padding and functions": (Functions, {"pad_type": "zero"}),
    "one tap": (lambda: Shortcut(norm), {"filt_size": 1}),
}


@pytest.mark.parametrize("name", STAYS)
def test_a_blur_stays_where_the_law_does_not_hold(name: str) -> None:
    make, arguments = STAYS[name]
    model = make().eval()
    plain, optimized = both(model, **arguments)
    assert edits(optimized) == ()
    assert str(optimized.graph) == str(plain.graph)


@pytest.mark.parametrize("path", ["conv", "after"])
def test_a_blur_stays_behind_what_something_else_reads(path: str) -> None:
    plain = antialias(Shortcut(norm).eval(), optimize=False)
    for graph in plain.graphs:
        read = next(node for node in graph.nodes if node.target == path)
        (output,) = graph.output_node().args
        with graph.inserting_before(graph.output_node()):
            again = graph.call_function(torch.relu, (read,))
        again.meta["path"] = "again"
        graph.output_node().args = ((output, again),)
    optimize_graphs(plain)
    assert edits(plain) == ()


def test_a_blur_stays_where_moving_it_costs() -> None:
    # 64 channels to 1: the blur of the one is cheaper than that of the 64.
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 1, 1, 2)).eval()
    assert edits(antialias(model, filt_size=7)) == ()


def test_in_training_the_norm_sees_the_blurred_map() -> None:
    model = Shortcut(norm).train()
    _, optimized = both(model)
    x = torch.randn(4, 3, 32, 32)
    blur = optimized.get_submodule("conv_blur")
    expected = model.after(nn.functional.conv2d(blur(model.stem(x)), model.conv.weight, model.conv.bias))
    torch.testing.assert_close(optimized(x), expected, rtol=1e-5, atol=1e-5)
    # A frozen norm is exact in training too.
    model.after.eval()
    plain, optimized = both(model)
    torch.testing.assert_close(optimized(x), plain(x), rtol=1e-5, atol=1e-5)


NETWORKS = {
    "torchvision:resnet18": 3,
    "torchvision:resnet50": 3,
    "torchvision:resnext50_32x4d": 3,
    "torchvision:regnet_y_400mf": 4,
    "torchvision:densenet121": 0,
    "timm:resnet26d": 0,
    "timm:regnety_002": 4,
    "timm:gernet_s": 4,
}


@pytest.mark.parametrize("name", tiered(NETWORKS, "torchvision:resnet18", "timm:resnet26d", "timm:regnety_002"))
def test_networks(name: str) -> None:
    library, _, architecture = name.partition(":")
    make = timm.create_model if library == "timm" else getattr(torchvision.models, architecture)
    model = randomize_statistics(make(architecture) if library == "timm" else make()).eval()
    plain, optimized = both(model)
    assert len(edits(optimized)) == NETWORKS[name], edits(optimized)
    x = torch.randn(1, 3, 97, 96)
    assert relative_error(run(plain, x), run(optimized, x)) <= 1e-5
    assert verify(model, optimized, x).ok
    optimized.load_state_dict(model.state_dict())


ARITHMETIC = [("resnet18", 2.342), ("resnet50", 5.141), ("resnext50_32x4d", 4.375)]


@pytest.mark.parametrize("case", tiered(ARITHMETIC, ("resnet18", 2.342)))
def test_the_arithmetic_is_that_of_the_published_networks(case: tuple[str, float]) -> None:
    name, gmac = case
    model = getattr(torchvision.models, name)()
    assert macs(antialias(model).eval(), torch.zeros(1, 3, 224, 224)) / 1e9 == pytest.approx(gmac, abs=5e-4)


POINTWISE = given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    stride=st.sampled_from([2, 3, (1, 2), (2, 1)]),
    filt_size=st.integers(1, 7),
    pad_type=st.sampled_from(["reflect", "replicate", "zero", "circular"]),
    bias=st.booleans(),
    normed=st.booleans(),
)


@settings(max_examples=15, deadline=None, derandomize=True)
@POINTWISE
def test_any_pointwise_conv(
    size: tuple[int, int], stride: Any, filt_size: int, pad_type: str, bias: bool, normed: bool
) -> None:
    check_pointwise_conv(size, stride, filt_size, pad_type, bias, normed)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@POINTWISE
def test_many_pointwise_convs(
    size: tuple[int, int], stride: Any, filt_size: int, pad_type: str, bias: bool, normed: bool
) -> None:
    check_pointwise_conv(size, stride, filt_size, pad_type, bias, normed)


def check_pointwise_conv(
    size: tuple[int, int], stride: Any, filt_size: int, pad_type: str, bias: bool, normed: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 7, 1, stride, bias=bias), nn.Identity())
    if normed:
        model[2] = nn.BatchNorm2d(7)
    randomize_statistics(model).eval().double()
    plain, optimized = both(model, filt_size=filt_size, pad_type=pad_type)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(run(optimized, x), run(plain, x), rtol=1e-12, atol=1e-12)


def test_exported_networks_are_optimized_alike() -> None:
    model, x = randomize_statistics(torchvision.models.resnet18()).eval(), torch.randn(2, 3, 64, 64)
    exported = torch.export.export(model, (x,)).module()
    optimized = antialias(exported, example_inputs=x)
    assert edits(optimized) == edits(antialias(model))
    assert relative_error(run(antialias(model, optimize=False), x), run_as_is(optimized, x)) <= 1e-5
    assert verify(exported, optimized, x).ok


def run_as_is(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)
