"""How far the sampling grid of each output moves: an even filter moves it by half a position at every site.

Dense op and blur: taps from `-(f - 1) // 2` to `f // 2` are centred on half a position to the right where `f` is even.
In the place of an average of `k`, a filter whose parity is another moves by half a position to the left. The step of
a position in input pixels doubles from site to site, and so does what each moves. Where an op joins branches, the
largest move is told. With the extra tap on the other side a site moves the other way; with half of it on either side
it does not move, for one tap more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from torch import fx
from torch.utils._pytree import keystr, tree_flatten_with_path

from blurify.planning.decision import Decision
from blurify.positions import MIXED, Layout, elements, finest, has_positions
from blurify.sites import Lands, Site

# Of the sides of so many grids, all combinations are tried; of finer ones, whose moves are small, one is enough.
MOST_LEVELS = 8
LEFT, BOTH = "left", "both"
SIGNS = {"": 1, LEFT: -1, BOTH: 0}

Vector = dict[int, float]


class Move(NamedTuple):
    """Hold the shift of one site along each axis, in input pixels, and the node after which it applies."""

    place: str
    by: Vector
    can_flip: bool

    def on(self, side: str) -> Move:
        """Return the move with the extra tap on a side; on both it is none."""
        return self._replace(by={axis: SIGNS[side] * by for axis, by in self.by.items()})


@dataclass(frozen=True)
class Grid:
    """The nodes of a graph in order, their inputs and the axes along which each has positions, by path."""

    nodes: tuple[tuple[str, tuple[str, ...], frozenset[int]], ...]

    @classmethod
    def of(cls, graph: fx.Graph, positions: Mapping[str, Layout]) -> Grid:
        """Read a graph."""
        nodes = []
        for node in graph.nodes:
            layout = positions.get(node.meta["path"], ())
            if has_positions(layout):
                sources = tuple(source.meta["path"] for source in elements(node))
                nodes.append((node.meta["path"], sources, frozenset(finest(layout))))
        return cls(tuple(nodes))

    def shifts(self, moves: Iterable[Move]) -> dict[str, Vector]:
        """Return how far the grid of every node has moved."""
        own: dict[str, list[Vector]] = {}
        for move in moves:
            own.setdefault(move.place, []).append(move.by)
        known: dict[str, Vector] = {}
        for path, sources, axes in self.nodes:
            fed = [known[source] for source in sources if source in known]
            shift = largest(fed)
            for by in own.get(path, ()):
                shift = {axis: shift.get(axis, 0.0) + by.get(axis, 0.0) for axis in shift | by}
            known[path] = shift if MIXED in axes else {axis: by for axis, by in shift.items() if axis in axes}
        return known


def largest(shifts: Iterable[Vector]) -> Vector:
    """Return the largest of several shifts along each axis, in either direction."""
    result: Vector = {}
    for shift in shifts:
        for axis, by in shift.items():
            if abs(by) >= abs(result.get(axis, 0.0)):
                result[axis] = by
    return result


def move_of(decision: Decision, site: Site, smooth: bool, positions: Mapping[str, Layout]) -> Move:
    """Return what a decision to rewrite moves; `smooth` says of a resize that its mode has an antialiased form."""
    traits = site.kind.traits
    place = decision.site if traits.lands is Lands.BEFORE else decision.landing
    layout = positions.get(place, ())
    if len(layout) < site.axes:
        return Move(place, {}, False)
    dims = [dim % len(layout) for dim in site.dims] if site.dims else range(len(layout) - site.axes, len(layout))
    after = (1,) * site.axes if traits.grows else site.blur_stride
    by: Vector = {}
    halves = [0.0] * site.axes if smooth and not decision.plain_resize else half_moves(decision, site)
    for dim, half, stride in zip(dims, halves, after, strict=True):
        for axis, step in finest((layout[dim],)).items():
            by[axis] = half * decision.strength * float(step) / stride * SIGNS[decision.side]
    return Move(place, by, can_flip(decision, site))


def half_moves(decision: Decision, site: Site) -> list[float]:
    """Return by how many positions of the dense grid the filter's centre lies aside, along each axis."""
    lines = [each.whole(stride) for each, stride in zip(decision.filters, site.blur_stride, strict=True)]
    if site.kind.traits.averages and site.divisor_override is None and is_covered(decision, site):
        windows = zip(site.kernel_size, lines, strict=True)
        return [centre(taps) - (len(taps) - k + 1) // 2 - (k - 1) / 2 for k, taps in windows]
    return [centre(taps) - (len(taps) - 1) // 2 for taps in lines]


def centre(taps: Sequence[float]) -> float:
    """Return where the weight of taps is centred, counted from the first."""
    mean = sum(place * tap for place, tap in enumerate(taps))
    return round(2 * mean) / 2 if abs(2 * mean - round(2 * mean)) < 1e-9 else mean


def can_flip(decision: Decision, site: Site) -> bool:
    """Return whether the layer that blurs can have its extra tap on the other side."""
    traits = site.kind.traits
    return is_covered(decision, site) if traits.averages else not traits.resizes


def is_covered(decision: Decision, site: Site) -> bool:
    """Return whether the filter is one that averages, and at least as wide as the site's window."""
    pairs = zip(site.kernel_size, decision.filters, site.blur_stride, strict=True)
    return all(each.averages and k <= len(each.whole(stride)) for k, each, stride in pairs)


def centered(grid: Grid, moves: Mapping[str, Move], outputs: Iterable[str]) -> dict[str, str]:
    """Return the sides of the extra taps with which the outputs move by less than a pixel; of no maps, the last map.

    Sites on one grid have one side, since their branches may be joined. The sides of all but the coarsest grid are
    tried; where no choice is enough, the coarsest takes both sides, and the others are tried again.
    """
    levels = sorted({size(move) for move in moves.values() if move.can_flip and move.by}, reverse=True)
    watched = tuple(outputs)

    def moved(sides: Mapping[float, str]) -> float:
        turned = [move.on(sides.get(size(move), "")) if move.can_flip else move for move in moves.values()]
        shifts = grid.shifts(turned)
        last = [shifts[place] for place in watched if place in shifts] or list(shifts.values())[-1:]
        return max((abs(by) for shift in last for by in shift.values()), default=0.0)

    best: dict[float, str] = {}
    for count in range(len(levels) + 1):
        both = dict.fromkeys(levels[:count], BOTH)
        best = min((both | sides for sides in _sides(levels[count:])), key=moved)
        if moved(best) < 1:
            break
    return {site: best[size(move)] for site, move in moves.items() if move.can_flip and best.get(size(move))}


def _sides(levels: list[float]) -> Iterator[dict[float, str]]:
    """Yield all choices of sides; the coarsest has the published one, since what counts is which differ from it."""
    varied = levels[1:MOST_LEVELS]
    for sides in product(("", LEFT), repeat=len(varied)):
        yield dict(zip(varied, sides, strict=True))


def size(move: Move) -> float:
    """Return how far a site moves at most."""
    return max((abs(by) for by in move.by.values()), default=0.0)


def pixels(shift: Vector, layout: Layout) -> tuple[float, ...]:
    """Return a shift along each axis of an output; where its order is lost, along each that moves."""
    axes = sorted(set(finest(layout)) - {MIXED}) or sorted(shift)
    return tuple(shift.get(axis, 0.0) for axis in axes)


def output_maps(graph: fx.Graph, positions: Mapping[str, Layout]) -> list[tuple[str, str]]:
    """Return the names of the outputs that are maps, or made of maps, and the paths of the nodes that give them."""
    given: Any = graph.output_node().args[0]
    while isinstance(given, fx.Node) and isinstance(given.target, type) and (given.args or given.kwargs):
        given = given.args[0] if given.args else given.kwargs  # a mapping or a dataclass made in the graph
    given = given if isinstance(given, (fx.Node, tuple, list)) else dict(given or {})
    found = tree_flatten_with_path(given, is_leaf=lambda value: isinstance(value, fx.Node))[0]
    nodes = [(f"output{keystr(key)}", value.meta["path"]) for key, value in found if isinstance(value, fx.Node)]
    return [(name, path) for name, path in nodes if has_positions(positions.get(path, ()))]
