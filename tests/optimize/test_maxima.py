"""Maxima that a filter of one tap follows: the same ones, and only those that are read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blurify import NoEffectWarning, maxima, plan, verify
from blurify.graph_module import TracedModule
from blurify.layers import MaxBlurPool2d, _DenseMaxPool
from blurify.measure.aliasing import folded_energy
from blurify.optimize import optimize_graphs
from blurify.planning import Plan
from tests.conftest import as_graph as antialias
from tests.conftest import randomize_statistics, relative_error, run

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def taken(model: nn.Module) -> list[str]:
    """The sites of which only the maxima that are read are taken."""
    said = "maxima taken only where they are read at "
    return [line.removeprefix(said) for line in model.meta["optimized"] if line.startswith(said)]


def has_dense(model: TracedModule) -> bool:
    return any(isinstance(model.get_submodule(path), _DenseMaxPool) for path in model.leaf_paths())


def both(model: nn.Module, filt_size: Any = 1) -> tuple[TracedModule, TracedModule]:
    return antialias(model, filt_size, optimize=False), antialias(model, filt_size)


# Pools of ceil_mode, as functions, and before other branches.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (torchvision.models.resnet18, 1),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 3),
    "alexnet": (torchvision.models.alexnet, 3),
    "inception_v3": (lambda: torchvision.models.inception_v3(init_weights=False, aux_logits=False), 4),
}


@pytest.mark.parametrize("name", [*list(NETWORKS)[:-1], pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_networks(name: str) -> None:
    make, pools = NETWORKS[name]
    model = randomize_statistics(make()).eval()
    plain, optimized = both(model)
    assert len(taken(optimized)) == pools
    assert has_dense(plain)
    assert not has_dense(optimized)
    x = torch.randn(1, 3, 99, 98)
    assert relative_error(run(plain, x), run(optimized, x)) <= 1e-6
    verdict = verify(model, optimized, x)
    assert verdict.ok, str(verdict)
    assert len(verdict.shapes) == len(optimized.meta["blurify"].rewritten)
    optimized.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert torch.equal(run(twin, x), run(optimized, x))
    with pytest.warns(NoEffectWarning, match="already antialiased"):
        again = antialias(optimized)
    assert torch.equal(run(again, x), run(optimized, x))


def stem_and(pool: nn.Module, axes: int = 2) -> nn.Sequential:
    return nn.Sequential({1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes](2, 3, 1), pool).eval()


@pytest.mark.parametrize("axes", [1, 2, 3])
@settings(max_examples=27, deadline=None, derandomize=True)
@given(
    size=st.tuples(*[st.integers(7, 13)] * 3),
    kernel=st.tuples(*[st.integers(1, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 4)] * 3),
    padding=st.tuples(*[st.integers(0, 1)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    ceil_mode=st.booleans(),
    channels_last=st.booleans(),
)
def test_any_pool(
    axes: int, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, channels_last: bool
) -> None:
    torch.manual_seed(0)
    kernel, stride = kernel[:axes], (*stride[: axes - 1], max(2, stride[axes - 1]))
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=False))
    kind = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes]
    model = stem_and(kind(kernel, stride, padding, dilation[:axes], False, ceil_mode), axes=axes)
    plain, optimized = both(model)
    assert taken(optimized) == ["1"]
    x = torch.randn(2, 2, *size[:axes])
    x = x.contiguous(memory_format=torch.channels_last) if axes == 2 and channels_last else x
    expected = run(model, x)
    assert torch.equal(run(optimized, x), expected)
    assert torch.equal(run(plain, x), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ways_and_dtypes_and_gradients(dtype: torch.dtype, layout: torch.memory_format) -> None:
    # Few values, so that there are ties for gradients to settle; and what is not finite.
    x = torch.randint(0, 4, (2, 3, 18, 17)).to(dtype).contiguous(memory_format=layout)
    x[0, 0, 3, 4], x[0, 1, 5, 6], x[1] = float("nan"), float("inf"), -float("inf")
    layer = MaxBlurPool2d(3, 2, 1, filt_size=1)
    expected = F.max_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0, equal_nan=True)
    assert layer(x).stride() == expected.stride()
    mine, theirs = (x.nan_to_num(0, 9, -9).requires_grad_() for _ in range(2))
    layer(mine).sum().backward()
    F.max_pool2d(theirs, 3, 2, 1).sum().backward()
    assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_programs_take_it() -> None:
    x = torch.randn(1, 2, 17, 16)
    optimized = both(stem_and(nn.MaxPool2d(3, 2, 1, ceil_mode=True)))[1]
    exported = torch.export.export(optimized, (x,))
    assert torch.equal(exported.module()(x), optimized(x))
    assert [str(n.target) for n in exported.graph.nodes if "aten.max" in str(n.target)] == ["aten.max_pool2d.default"]
    layer = MaxBlurPool2d(3, 2, 1, filt_size=1)
    assert torch.equal(torch.jit.script(layer)(x), layer(x))


def test_the_fast_way_is_for_plain_maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    way = maxima.strided_max
    monkeypatch.setattr(maxima, "strided_max", lambda *given: seen.append(True) or way(*given))
    layer, x = MaxBlurPool2d(3, 2, 1, filt_size=1), torch.randn(1, 2, 16, 16)
    layer(x)
    assert seen == [True]
    layer(x.contiguous(memory_format=torch.channels_last))
    layer(x.half())
    layer(x.requires_grad_())
    assert seen == [True]


class Pooled(nn.Module):
    """A map and its pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.stem(x)).relu()


def edited(edit: Callable[[TracedModule, Any, Any], None]) -> TracedModule:
    converted = antialias(Pooled().eval(), 1, optimize=False)
    for graph in converted.graphs:
        edit(converted, graph, next(node for node in graph.nodes if node.target == "pool"))
    optimize_graphs(converted)
    return converted


def read_again(converted: TracedModule, graph: Any, dense: Any) -> None:
    (output,) = graph.output_node().args
    with graph.inserting_before(graph.output_node()):
        again = graph.call_function(torch.relu, (dense,))
    again.meta["path"] = "again"
    graph.output_node().args = ((output, again),)


def mix_between(converted: TracedModule, graph: Any, dense: Any) -> None:
    (blur,) = dense.users
    with graph.inserting_after(dense):
        between = graph.call_function(torch.flip, (dense, (2,)))
    between.meta["path"] = "between"
    blur.args = (between,)


def listen(path: str) -> Callable[[TracedModule, Any, Any], None]:
    return lambda converted, *_: converted.get_submodule(path).register_forward_hook(lambda *given: None)


KEPT = {
    "another reader": read_again,
    "something between": mix_between,
    "a hook on the pool": listen("pool"),
    "a hook on the blur": listen("pool_blur"),
}


@pytest.mark.parametrize("name", KEPT)
def test_all_maxima_are_taken_where_others_may_see_them(name: str) -> None:
    model = edited(KEPT[name])
    assert taken(model) == []
    assert has_dense(model)
    assert taken(edited(lambda *_: None)) == ["pool"]


def test_of_two_taps_all_maxima_are_taken() -> None:
    assert taken(antialias(Pooled().eval(), 2)) == taken(antialias(Pooled().eval(), 3, strength=0.1)) == []
    assert taken(antialias(stem_and(nn.MaxPool2d(2, 3)), 2)) == []


def test_a_pool_that_is_called_twice_is_one_for_both_calls_or_none() -> None:
    class Twice(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.pool(self.stem(x)).relu())

    model, x = Twice().eval(), torch.randn(2, 2, 33, 32)
    sizes: tuple[tuple[Any, int], ...] = ((1, 1), ({"pool": 1, "pool_1": 3}, 0))
    for filt_size, pools in sizes:
        plain, optimized = both(model, filt_size)
        assert len(taken(optimized)) == pools
        assert torch.equal(run(plain, x), run(optimized, x))
        verdict = verify(model, optimized, x)
        assert verdict.ok
        assert len(verdict.shapes) == 2


def test_a_filter_that_strength_made_one_tap_counts() -> None:
    model, x = Pooled().eval(), torch.randn(2, 2, 33, 32)
    old = Plan(tuple(replace(decision, strength=0.0) for decision in plan(model, 4).decisions))
    weak = old.apply(model, form="graph", optimize=False)
    expected = run(weak, x)
    optimize_graphs(weak)
    assert taken(weak) == ["pool"]
    assert torch.equal(run(weak, x), expected)


def test_what_it_folds_is_measured_as_before() -> None:
    plain, optimized = both(randomize_statistics(torchvision.models.resnet18()).eval(), {"maxpool": 1, "*": 3})
    assert taken(optimized) == ["maxpool"]
    x = torch.randn(2, 3, 64, 64)
    expected, found = folded_energy(plain, x), folded_energy(optimized, x)
    assert found.keys() == expected.keys()
    assert torch.equal(found["maxpool"], expected["maxpool"])


def test_in_training_it_is_the_same_pool() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.Dropout(0.5))
    x, outputs = torch.randn(2, 2, 16, 16), []
    for part in both(model):
        part.train()
        torch.manual_seed(1)
        outputs.append(part(x))
    assert torch.equal(*outputs)
