"""The module, the user's own graph of it and its export give one plan and one result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, fx, nn

from blurify import antialias, plan, verify
from blurify.planning.decision import Decision
from blurify.sites import Action, Reason
from blurify.tracing import trace
from tests.conftest import randomize_statistics, run
from tests.core.test_forms import Calls


def as_found(model: nn.Module, x: Tensor) -> nn.Module:
    return model


def own_graph(model: nn.Module, x: Tensor) -> nn.Module:
    return fx.symbolic_trace(model)


def exported(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.export(model, (x,)).module()


FRONT_ENDS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {"own graph": own_graph, "export": exported}
NETWORKS: dict[str, dict[str, Any]] = {
    "torchvision:resnet18": {},
    "torchvision:mobilenet_v2": {},
    # It takes channels apart and together before its stem, and has heads in training alone.
    "torchvision:googlenet": {"init_weights": False, "transform_input": True},
    "torchvision:squeezenet1_1": {},
    # Norms that a plain tracer enters, where they ask for the rank of what they are given.
    "timm:test_efficientnet": {},
    "timm:regnetx_002": {},
    # Blurs of its own.
    "timm:resnetblur18": {},
}


# Large ones that show nothing which the others do not.
SLOW = ("torchvision:googlenet", "torchvision:mobilenet_v2", "timm:regnetx_002")


def tiered(names: Iterable[str]) -> list[Any]:
    """Return the parameters of a test over networks, the large ones marked."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


def make(name: str) -> nn.Module:
    library, _, network = name.partition(":")
    if library == "timm":
        return randomize_statistics(timm.create_model(network, **NETWORKS[name])).eval()
    return randomize_statistics(torchvision.models.get_model(network, weights=None, **NETWORKS[name])).eval()


def without_landing(decision: Decision) -> tuple[Any, ...]:
    """What all front-ends agree on. A landing's name is that of a module which an export does not call (`nn.Identity`)
    or of a function inside one that a plain tracer enters; the outputs tell whether it is the same place.
    """
    return (decision.site, decision.kind, decision.stride, decision.kernel_size, decision.filt_size, decision.reason)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("name", tiered(NETWORKS))
def test_front_ends_agree(name: str, front_end: str) -> None:
    model, x = make(name), torch.randn(2, 3, 65, 65)
    other = FRONT_ENDS[front_end](model, x)
    mine, theirs = plan(model, stem=True), plan(other, stem=True)
    assert [without_landing(d) for d in mine.rewritten] == [without_landing(d) for d in theirs.rewritten]
    # The default, which keeps the stem, keeps the same one.
    kept = [[d.site for d in plan(m).kept if d.reason is Reason.STEM] for m in (model, other)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 1
    converted = antialias(other, stem=True, optimize=False)
    expected = run(antialias(model, stem=True, optimize=False), x)
    # The same arithmetic in the same order, but for a norm that one of them calls as a function.
    torch.testing.assert_close(run(converted, x), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(expected, run(model, x))
    # A graph of one mode keeps no more of the model than it names.
    assert set(converted.state_dict()) == set(other.state_dict()) <= set(model.state_dict())
    verdict = verify(other, converted, x)
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("name", tiered(["torchvision:resnet18", "torchvision:mobilenet_v2"]))
def test_landings_agree_where_every_layer_is_a_module(name: str) -> None:
    model, x = make(name), torch.randn(2, 3, 64, 64)
    expected = plan(model, 3)
    assert expected == plan(own_graph(model, x), 3)
    assert expected == plan(exported(model, x), 3)
    # A plan made of one carries over to the others.
    results = [run(expected.apply(front(model, x)), x) for front in (as_found, own_graph, exported)]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_graph_of_one_mode_says_which_front_end(front_end: str) -> None:
    model, x = make("torchvision:resnet18"), torch.randn(2, 3, 64, 64)
    traced = trace(FRONT_ENDS[front_end](model, x))
    assert traced.meta["front_end"] == "the model's own graph"
    assert len(traced.graphs) == 1
    assert trace(model).meta["front_end"] == "torch.fx"


def test_blurs_that_a_plain_tracer_enters_are_known_by_their_filter() -> None:
    model, x = make("timm:resnetblur18"), torch.randn(2, 3, 65, 65)
    blurs = [d for d in plan(model).kept if d.reason is Reason.ALREADY_ANTIALIASED]
    assert len(blurs) == 4
    for front in FRONT_ENDS.values():
        found = [d for d in plan(front(model, x)).kept if d.reason is Reason.ALREADY_ANTIALIASED]
        assert [d.site for d in found] == [f"{d.site}.conv2d" for d in blurs]


def test_an_export_takes_a_stepped_slice_apart() -> None:
    """One slice an axis, which are one site."""
    model, x = Calls(lambda x, c: x[..., ::2, ::2].relu()), torch.randn(2, 3, 16, 16)
    other = exported(model, x)
    for each in (model, other):
        decisions = plan(each, example_inputs=x).decisions
        assert [(d.action, d.stride) for d in decisions] == [(Action.REWRITE, (2, 2))]
    torch.testing.assert_close(run(antialias(other, example_inputs=x), x), run(antialias(model), x))
    # Without an input nothing tells which axes are a map's.
    assert [d.reason for d in plan(other).decisions] == [Reason.UNKNOWN_SIZE]


# What is checked of a conv's output, and whether the blur may go past that.
CHECKS: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "ndim": (lambda x: torch._assert(x.ndim == 4, "a batch of maps"), True),
    "dim()": (lambda x: torch._assert(x.dim() == 4, "a batch of maps"), True),
    "dtype": (lambda x: torch._assert(x.dtype != torch.int64, "numbers"), True),
    "shape": (lambda x: torch._assert(x.shape[-1] == 7, "seven columns"), False),
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_checks_a_rank_is_no_consumer_and_what_reads_a_size_is(name: str) -> None:
    check, passes = CHECKS[name]

    def function(x: Tensor, c: Any) -> Tensor:
        x = c(x)
        check(x)
        return x.relu()

    model, x = Calls(function), torch.randn(1, 3, 16, 16)
    model.inner = nn.Conv2d(4, 4, 3, 2)
    (decision,) = plan(model).rewritten
    assert decision.landing == ("relu" if passes else "inner")
    assert verify(model, antialias(model), x).ok


def test_blurs_of_ours_are_known_in_an_export() -> None:
    model, x = make("torchvision:resnet18"), torch.randn(2, 3, 64, 64)
    for pad_type in ("reflect", "zero"):
        converted = antialias(model, pad_type=pad_type)
        decisions = plan(exported(converted, x)).decisions
        assert [d.reason for d in decisions].count(Reason.ALREADY_ANTIALIASED) == len(plan(converted).kept) - 1
        assert not any(d.action is Action.REWRITE for d in decisions)
