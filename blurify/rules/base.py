"""Inputs and results of every rule."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import fx, nn

from blurify.graph.edit import shallow_copy
from blurify.positions import Layout, has_positions
from blurify.rules.downsampler import Downsampler
from blurify.sites import Reason, Site
from blurify.tracing.shapes import Shapes

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Context:
    """Hold a rule's context besides the node: the module that holds the parameters, and shapes.

    `shapes` tells the shapes of the first tensor fed to a node and of its output, None where they are not known.
    `positions` tells by path along which dimensions of each tensor positions lie: nothing of a node where shapes are
    not known, and None where a plan is carried out, which was made from them.
    """

    root: nn.Module
    shapes: Callable[[fx.Node], Shapes] = lambda node: (None, None)
    positions: Mapping[str, Layout] | None = None


@dataclass(frozen=True)
class Replacement:
    """Hold the replacement of a site: the module called instead of the op, and the blur that follows at the landing.

    No `dense` means that the node stays or was edited; no `blur` that the dense module already subsamples. With
    `before` the blur goes between the landing and the node, for the node alone. With `all_arguments` the dense module
    is called with the node's arguments instead of its input alone.
    """

    dense: nn.Module | None
    blur: nn.Module | None
    before: bool = False
    all_arguments: bool = False

    @property
    def has_parameters(self) -> bool:
        """Return whether the dense module must stay at the original's path, to keep its parameters' names."""
        return self.dense is not None and next(self.dense.parameters(), None) is not None


@dataclass(frozen=True)
class Rule:
    """Knows one op family.

    `recognise(node, module, context)` returns the normalised site if the node is of this family and changes the
    resolution; `module` is what it calls, if it calls one.
    `replace(node, module, site, down)` makes what takes its place; `down` makes the layer that subsamples.
    `as_function(node, module, site)` turns one call of a module with parameters, whose other calls stay as they are,
    into a dense function; `can_be_function(module)` tells whether that computes the same.
    `absorbs(node)` gives the nodes before a pool written by hand that are a part of it.
    `as_decided(site, decided)` completes a site by what was known of it when the plan was made, from shapes.
    """

    recognise: Callable[[fx.Node, Any, Context], Site | None]
    replace: Callable[[fx.Node, nn.Module | None, Site, Downsampler], Replacement]
    as_function: Callable[[fx.Node, Any, Site], None] | None = None
    can_be_function: Callable[[Any], bool] = lambda module: False
    absorbs: Callable[[fx.Node], Iterable[fx.Node]] = lambda node: ()
    as_decided: Callable[[Site, Site], Site] = lambda site, decided: site


def axes_of(module: object, modules: Mapping[type[nn.Module], int]) -> int:
    """Return the spatial axes of a module of one of the classes or of a subclass; 0 for all else."""
    return next((axes for kind, axes in modules.items() if isinstance(module, kind)), 0)


def refused_unless_exact(site: Site | None, module: object, modules: Container[type[nn.Module]]) -> Site | None:
    """Return the site of a module, refused where its class is a subclass, which may do anything with its arguments."""
    if site is None or type(module) in modules:
        return site
    return replace(site, refusal=Reason.UNKNOWN_SUBCLASS)


def steps_over_channels(source: object, dims: Iterable[int], context: Context) -> bool:
    """Return whether the dimensions are known to hold no positions of a map that has some."""
    layout = (context.positions or {}).get(source.meta["path"], ()) if isinstance(source, fx.Node) else ()
    return has_positions(layout) and not has_positions([layout[dim] for dim in dims])


def never(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Raise, since the rule refuses every site that it recognises."""
    raise AssertionError(f"{node.name} must not be rewritten: {site.refusal}")


def with_stride(module: M, stride: tuple[int, ...]) -> M:
    """Return the same module, same parameters, at another stride."""
    twin = shallow_copy(module)
    twin.stride = stride  # type: ignore[assignment]
    return twin
