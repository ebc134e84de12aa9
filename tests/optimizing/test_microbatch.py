"""Chains that a large batch passes in parts: the same comes out, and whoever must see the whole batch sees it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from blurify.graph.module import TracedModule
from blurify.kernels import eager, fast
from tests.conftest import as_graph as antialias
from tests.conftest import randomize_statistics, relative_error, run, tiered

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the batches that went in parts, for which 64 KiB are large already."""
    seen: list[tuple[int, ...]] = []
    original = eager.in_parts
    monkeypatch.setattr(eager, "PART", 2**16)
    for module in (eager, fast):
        monkeypatch.setattr(module, "in_parts", lambda run, x, n: seen.append(tuple(x.shape)) or original(run, x, n))
    return seen


def small() -> nn.Sequential:
    """Conv, norm, activation, strided conv, norm, activation, max pool, head: two chains."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.BatchNorm2d(12),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return randomize_statistics(model).eval()


def both(model: nn.Module, **arguments: Any) -> tuple[TracedModule, TracedModule]:
    return antialias(model, optimize=False, **arguments), antialias(model, **arguments)


class WholeLayers(fx.Tracer):
    """A tracer that keeps every layer whole, whoever made it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not list(m.children())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("samples", [2, 3, 7])
def test_the_same_comes_out(samples: int, layout: torch.memory_format, parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(small())
    assert optimized.meta["optimized"] == ("2 conv chains run in micro-batches",)
    x = torch.randn(samples, 3, 64, 63).contiguous(memory_format=layout)
    expected = run(plain, x)
    parts.clear()
    assert relative_error(expected, run(optimized, x)) <= 1e-6
    assert parts == [(samples, 3, 64, 63), (samples, 12, 32, 32)][: 1 + (samples > 2)]


NETWORKS = [
    "torchvision:resnet18",
    "torchvision:vgg11_bn",
    "torchvision:mobilenet_v2",
    "torchvision:densenet121",
    "torchvision:inception_v3",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "timm:efficientnet_b0",
    "timm:tf_efficientnet_lite0",
    "timm:resnetv2_50",
    "timm:convnext_atto",
    "timm:nf_regnet_b0",
]


EVERYDAY = ("torchvision:mobilenet_v2", "torchvision:squeezenet1_1", "timm:convnext_atto", "timm:nf_regnet_b0")


@pytest.mark.parametrize("name", tiered(NETWORKS, *EVERYDAY))
def test_networks(name: str, parts: list[tuple[int, ...]]) -> None:
    library, _, architecture = name.partition(":")
    make = timm.create_model if library == "timm" else getattr(torchvision.models, architecture)
    model = make(architecture) if library == "timm" else make(**({"init_weights": False} if "inc" in name else {}))
    plain, optimized = both(randomize_statistics(model).eval())
    x = torch.randn(3, 3, 97, 96)
    expected = run(plain, x)
    before = len(parts)
    assert relative_error(expected, run(optimized, x)) <= 1e-5
    assert len(parts) > before, "nothing went in parts"


CHAINS = given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40)),
    filt_size=st.integers(1, 6),
    stride=st.sampled_from([2, 3, (1, 2)]),
    pad_type=st.sampled_from(["reflect", "replicate", "zero", "circular"]),
    part=st.sampled_from([1, 2**10, 2**14]),
)


@pytest.mark.parametrize("depthwise", [False, True])
@settings(max_examples=10, deadline=None, derandomize=True)
@CHAINS
def test_any_chain(
    shape: tuple[int, int, int], filt_size: int, stride: Any, pad_type: str, depthwise: bool, part: int
) -> None:
    check_chain(shape, filt_size, stride, pad_type, depthwise, part)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [False, True])
@settings(max_examples=60, deadline=None, derandomize=True)
@CHAINS
def test_many_chains(
    shape: tuple[int, int, int], filt_size: int, stride: Any, pad_type: str, depthwise: bool, part: int
) -> None:
    check_chain(shape, filt_size, stride, pad_type, depthwise, part)


def check_chain(
    shape: tuple[int, int, int], filt_size: int, stride: Any, pad_type: str, depthwise: bool, part: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, stride, 1, groups=6 if depthwise else 1)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), conv, nn.BatchNorm2d(6), nn.ReLU6(), nn.AvgPool2d(2, ceil_mode=True))
    plain, optimized = both(randomize_statistics(model).eval().double(), filt_size=filt_size, pad_type=pad_type)
    x = torch.randn(shape[0], 3, *shape[1:], dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "PART", part)
        torch.testing.assert_close(run(optimized, x), run(plain, x), rtol=1e-12, atol=1e-12)


class Scaled(nn.Module):
    """A strided conv, a scale, a pool; and functions beside modules."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 8, 3, 2, 1), nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.hardswish(x, inplace=True) * self.scale
        return F.max_pool2d(F.relu(x, inplace=True), 3, 2, 1)


def test_functions_and_scales_are_part_of_chains(parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(Scaled(torch.rand(8, 1, 1)).eval(), stem=True)
    x = torch.randn(6, 3, 64, 64)
    expected = run(plain, x)
    parts.clear()
    assert relative_error(expected, run(optimized, x)) <= 1e-6
    assert parts == [(6, 3, 64, 64), (6, 8, 32, 32)]


def test_a_scale_for_each_sample_is_not(parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(Scaled(torch.rand(6, 8, 1, 1)).eval())
    x = torch.randn(6, 3, 64, 64)
    assert torch.equal(run(plain, x), run(optimized, x))


class OfTheBatch(nn.Conv2d):
    """A conv of somebody's own, whose result depends on all samples."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.mean()


class AlwaysDropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


MIXING: dict[str, Callable[[], nn.Module]] = {
    "batch statistics": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "a conv of another's": lambda: OfTheBatch(8, 8, 1),
}


def test_what_draws_at_random_draws_for_the_whole_batch(parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), AlwaysDropping(), nn.MaxPool2d(2)).eval())
    x = torch.randn(5, 3, 64, 64)
    outputs = []
    for network in (plain, optimized):
        torch.manual_seed(1)
        outputs.append(run(network, x))
    assert relative_error(*outputs) <= 1e-6
    assert parts[-1] == (5, 8, 64, 64)


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_samples_gets_the_whole_batch(name: str, parts: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), MIXING[name](), nn.ReLU(), nn.MaxPool2d(2)).eval()
    plain, optimized = both(fx.GraphModule(model, WholeLayers().trace(model)))
    x = torch.randn(5, 3, 64, 64)
    assert relative_error(run(plain, x), run(optimized, x)) <= 1e-6
    assert parts[-1] == (5, 8, 64, 64)


class Interleaved(nn.Module):
    """Something looks at a map after it was written to in place, and before the chain of what is read is through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(x, inplace=True)
        seen = x.mean()
        z = self.conv(y)
        x.mul_(2)
        return self.pool(z) + seen


def test_what_is_written_in_place_is_seen_when_it_was(parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(Interleaved().eval())
    x = torch.randn(6, 3, 64, 64)
    assert relative_error(run(plain, x), run(optimized, x)) <= 1e-6
    assert parts[-1] == (6, 8, 62, 62)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_kept(layout: torch.memory_format, parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(small()[:7])
    x = torch.randn(6, 3, 64, 64).contiguous(memory_format=layout)
    expected = run(plain, x)
    parts.clear()
    assert run(optimized, x).stride() == expected.stride()
    assert parts


def whole(use: Callable[[TracedModule], None]) -> Callable[[], TracedModule]:
    def make() -> TracedModule:
        model = antialias(small())
        use(model)
        return model

    return make


def listen(model: TracedModule) -> None:
    model.get_submodule("3").register_forward_hook(lambda module, args, output: None)
    model.get_submodule("6").register_forward_pre_hook(lambda module, args: None)


WATCHED: dict[str, Callable[[], TracedModule]] = {
    "norms re-estimated": whole(lambda model: [m.train() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]),
    "hooks": whole(listen),
    "training": whole(lambda model: model.train()),
}


@pytest.mark.parametrize("name", ["norms re-estimated", "training"])
def test_statistics_are_of_the_whole_batch(name: str, parts: list[tuple[int, ...]]) -> None:
    model = WATCHED[name]()
    reference = antialias(small(), optimize=False)
    reference.load_state_dict(model.state_dict())
    for mine, other in zip(model.modules(), reference.modules(), strict=False):
        other.training = mine.training
    reference.follow_mode()
    x = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), reference(x))
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert (5, 3, 64, 64) not in parts


def test_hooks_see_the_whole_batch(parts: list[tuple[int, ...]]) -> None:
    model = WATCHED["hooks"]()
    seen: list[int] = []
    model.get_submodule("0").register_forward_hook(lambda module, args, output: seen.append(len(output)))
    run(model, torch.randn(5, 3, 64, 64))
    assert seen == [5]
    converted = antialias(small())
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(len(output)))
    run(converted, torch.randn(5, 3, 64, 64))
    handle.remove()
    assert set(seen) == {5}


@pytest.mark.parametrize("context", [torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_gradients_and_autocast_take_the_whole_batch(context: Any, parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(small())
    x = torch.randn(5, 3, 64, 64)
    with torch.no_grad(), context():
        assert torch.equal(plain(x), optimized(x))
    assert not parts


def test_one_sample_and_unbatched_maps(parts: list[tuple[int, ...]]) -> None:
    plain, optimized = both(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2)))
    for x in (torch.randn(1, 3, 96, 96), torch.randn(3, 96, 96)):
        assert torch.equal(run(plain, x), run(optimized, x))
    volumes = nn.Sequential(nn.Conv3d(3, 8, 1), nn.Conv3d(8, 8, 3, 2, 1), nn.SiLU(), nn.SiLU()).eval()
    plain, optimized = both(volumes, example_inputs=torch.zeros(1, 3, 16, 32, 32))
    x = torch.randn(3, 16, 64, 64)  # of three dimensions and channels, not a batch
    assert torch.equal(run(plain, x), run(optimized, x))
    assert not parts


@pytest.mark.parametrize("renew", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_go_in_parts_too(renew: Callable[[TracedModule], TracedModule], parts: list[tuple[int, ...]]) -> None:
    model = antialias(small())
    x = torch.randn(5, 3, 64, 64)
    expected = run(model, x)
    parts.clear()
    twin = renew(model)
    assert torch.equal(run(twin, x), expected)
    assert parts[0] == (5, 3, 64, 64)


def test_what_is_changed_afterwards_counts(parts: list[tuple[int, ...]]) -> None:
    model = antialias(small())
    x = torch.randn(5, 3, 64, 64)
    before = run(model, x)
    # Another module under the same name, and weights written to.
    setattr(model, "5", nn.ReLU())
    assert not torch.allclose(run(model, x), before)
    setattr(model, "5", nn.SiLU())
    with torch.no_grad():
        model.get_submodule("0").weight.zero_()
    assert not torch.allclose(run(model, x), before)


def test_an_edit_that_breaks_a_chain_is_followed(parts: list[tuple[int, ...]]) -> None:
    optimized = antialias(small())
    model = copy.deepcopy(optimized)
    x = torch.randn(5, 3, 64, 64)
    inside = next(node for node in model.graph.nodes if node.target == "1")
    head = next(node for node in model.graph.nodes if node.op == "output")
    head.args = ((head.args[0], inside),)
    model.recompile()
    parts.clear()
    with torch.no_grad():
        out, inner = model(x)
        broken = len(parts)
        expected = optimized(x)
    torch.testing.assert_close(out, expected)
    assert inner.shape == (5, 8, 64, 64)
    assert (5, 3, 64, 64) not in parts[:broken]


def test_the_graph_is_what_others_see() -> None:
    model = antialias(small())
    x = torch.randn(2, 3, 32, 32)
    expected = run(model, x)
    retraced = WholeLayers().trace(model)
    assert [node.target for node in retraced.nodes] == [node.target for node in model.graph.nodes]
    assert torch.equal(fx.Interpreter(model).run(x), expected)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    assert torch.allclose(exported.module()(torch.cat([x, x])), torch.cat([expected, expected]), atol=1e-6)


def test_it_compiles_without_a_break() -> None:
    model = antialias(small())
    x = torch.randn(2, 3, 32, 32)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))


class Counting:
    """A compiler that compiles nothing, and counts the convs of every graph that it is given: two, and two blurs."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, graph: fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.counts.append(sum(node.target is torch.conv2d for node in graph.graph.nodes))
        return graph.forward

    def compiled(self, model: nn.Module, dynamic: bool | None = None) -> Callable[[Tensor], Tensor]:
        torch._dynamo.reset()
        return torch.compile(model, backend=self, fullgraph=True, dynamic=dynamic)


def test_compiled_code_holds_every_part(parts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, optimized = both(small())
    x, counting = torch.randn(4, 3, 64, 63), Counting()
    with torch.no_grad():
        assert relative_error(plain(x), counting.compiled(optimized)(x)) <= 1e-6
        monkeypatch.setattr(eager, "MOST_COMPILED", 2)
        counting.compiled(optimized)(x)
    assert counting.counts == [4 * 4, 2 * 4]


def test_compiled_code_for_gradients_or_any_batch_is_whole(parts: list[tuple[int, ...]]) -> None:
    _, optimized = both(small())
    x, counting = torch.randn(4, 3, 64, 63), Counting()
    counting.compiled(optimized)(x)
    with torch.no_grad():
        counting.compiled(optimized, dynamic=True)(x)
        for strict in (False, True):
            exported = torch.export.export(optimized, (x,), strict=strict)
            assert sum(node.target is torch.ops.aten.conv2d.default for node in exported.graph.nodes) == 4
        # One batch after another: the second time it is compiled for all that may follow.
        run = counting.compiled(optimized)
        for samples in (4, 5, 6, 7):
            run(torch.randn(samples, 3, 64, 63))
    assert counting.counts == [4, 4, 4 * 4, 4]
