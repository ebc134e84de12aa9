"""Sites that the tracer does not show, because they lie inside modules that it does not look into. They are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from blurify.graph.module import TracedModule
from blurify.planning.decision import Decision, kept
from blurify.rules import Context, recognise
from blurify.sites import Kind, Reason, Site
from blurify.tracing.leaves import is_strided
from blurify.tracing.wrappers import scripted_strides


def opaque_sites(traced: TracedModule) -> Iterator[Decision]:
    """Return the sites that lie inside leaves which the tracer did not enter."""
    seen: set[str] = set()
    for graph in traced.graphs:
        for node in graph.nodes:
            if node.op != "call_module" or str(node.target) in seen:
                continue
            seen.add(str(node.target))
            leaf = traced.get_submodule(str(node.target))
            if recognise(node, leaf, Context(traced)) is None:
                hidden = list(_inside(leaf, str(node.target), node, traced))
                yield from hidden or _itself(leaf, str(node.target))


def _inside(leaf: nn.Module, path: str, node: fx.Node, traced: TracedModule) -> Iterator[Decision]:
    if isinstance(leaf, torch.jit.ScriptModule):
        yield from _scripted(leaf, path)
        return
    for name, module in leaf.named_modules():
        known = recognise(node, module, Context(traced)) if name else None
        if known is not None and known[1].kind is Kind.BLUR:
            yield kept(f"{path}.{name}", known[1], Reason.ALREADY_ANTIALIASED)
        elif known is not None:
            hidden = replace(known[1], kind=Kind.OPAQUE)
            decision = kept(f"{path}.{name}", hidden, Reason.OPAQUE)
            yield replace(decision, detail=f"{type(leaf).__name__} holds this strided {type(module).__name__}")


def _scripted(leaf: nn.Module, path: str) -> Iterator[Decision]:
    for name, stride in scripted_strides(leaf).items():
        decision = kept(f"{path}.{name}", Site(Kind.OPAQUE, (), stride, (), ()), Reason.OPAQUE)
        yield replace(decision, detail="it is TorchScript, which has no Python to trace")


# Their stride spreads positions out.
GROWING = (nn.modules.conv._ConvTransposeNd, nn.modules.pooling._MaxUnpoolNd, nn.Fold)


def _itself(leaf: nn.Module, path: str) -> Iterator[Decision]:
    """Yield the decision on a leaf of no known family, without strided modules inside, that has its own stride."""
    # Our dense layers only tell the stride of the op whose dense form they are.
    scripted = isinstance(leaf, torch.jit.ScriptModule)
    if (
        is_strided(leaf)
        and not scripted
        and not isinstance(leaf, GROWING)
        and type(leaf).__module__ != "blurify.layers"
    ):
        stride: Any = leaf.stride
        site = Site(Kind.OPAQUE, (), tuple(stride) if isinstance(stride, (tuple, list)) else (stride,), (), ())
        decision = kept(path, site, Reason.OPAQUE)
        yield replace(decision, detail=f"{type(leaf).__name__} has a stride of its own")
