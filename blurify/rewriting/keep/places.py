"""Which modules can blur in the place of the graph's blurs. Pure: model and graphs are only read.

In the graph a blur follows a node, the landing. A module can do the same if *every* call of it gives, or is first fed,
a landing that is blurred alike, and if nobody reads what it blurs unblurred: inside, before it is given; elsewhere,
after it was taken.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blurify.graph.hosts import AFTER, BEFORE, can_host
from blurify.planning.placement import readers
from blurify.tracing.calls import ModuleCall, calls_by_path, running


@dataclass(frozen=True)
class Place:
    """A module, and whether it blurs what it takes (`BEFORE`) or what it gives (`AFTER`).

    A blur is `hoisted` where the graph form has it after the module too, before optimization.
    """

    path: str
    blurs: str
    hoisted: bool = False


@dataclass(frozen=True)
class Landed:
    """The landing of a site in one graph; `alike` is the same for blurs that are."""

    site: str
    node: fx.Node
    alike: object


class Places:
    """The places for the blurs of some sites."""

    def __init__(self, model: nn.Module, graphs: Iterable[fx.Graph], landed: Iterable[Landed]) -> None:
        self.model = model
        self.of_site: dict[str, list[Landed]] = {}
        for each in landed:
            self.of_site.setdefault(each.site, []).append(each)
        self.at = {each.node: each for of_site in self.of_site.values() for each in of_site}
        self.calls = [calls_by_path(graph) for graph in graphs]

    def chosen(self) -> dict[str, tuple[Place, ...]]:
        """Return the places of every site that has any; sites that are blurred at the same have the same."""
        chosen: dict[str, tuple[Place, ...]] = {}
        for site, landed in self.of_site.items():
            for places in () if site in chosen else self._candidates(landed[0].node):
                served = self._served(places)
                if site in served and not served & chosen.keys():
                    chosen.update(dict.fromkeys(served, places))
                    break
        return chosen

    def _candidates(self, landing: fx.Node) -> list[tuple[Place, ...]]:
        """Yield the innermost module first, one that gives the landing before one that takes it, batch-norms last.

        Many tools replace batch-norms by others of their kind, and a new one would not blur. Where several modules
        take the landing and nobody gives it, each of them blurs it.
        """
        given = [Place(call.path, AFTER) for call in reversed(running(landing)) if call.gives is landing]
        taken = [self._able(_takers(reader, landing)) for reader in readers(landing)]
        one = [*self._able(given), *(taken[0] if taken else ())]
        one.sort(key=lambda place: isinstance(self.model.get_submodule(place.path), _BatchNorm))
        each = tuple(dict.fromkeys(places[0] for places in taken if places))
        return [*((place,) for place in one), each]

    def _able(self, places: Iterable[Place]) -> list[Place]:
        return [place for place in places if can_host(self.model.get_submodule(place.path), place.blurs)]

    def _served(self, places: tuple[Place, ...]) -> set[str]:
        """Return the sites whose blur the places are, in every graph; none if a call of one would blur other things."""
        served = [landed for calls in self.calls for landed in self._landings_at(places, calls)]
        if None in served or len({each.alike for each in served if each}) != 1:
            return set()
        sites = {each.site for each in served if each}
        return sites if all(each in served for site in sites for each in self.of_site[site]) else set()

    def _landings_at(self, places: tuple[Place, ...], calls: Mapping[str, list[ModuleCall]]) -> Iterator[Landed | None]:
        called = [(place, call) for place in places for call in calls.get(place.path, ())]
        for place, call in called:
            node = call.gives if place.blurs == AFTER else call.fed
            if node is None:
                yield None
                continue
            around = [other for _, other in called if place.blurs == BEFORE and _takes(other, node)]
            # Inside one that gives it nobody may read it; of those that take it, one has each reader inside.
            inside = [sum(other in running(reader) for other in around or [call]) for reader in readers(node)]
            fits = set(inside) <= {len(around[:1])} and (place.blurs == AFTER or call in around)
            yield self.at.get(node) if fits else None


def _takers(reader: fx.Node, landing: fx.Node) -> Iterator[Place]:
    return (Place(call.path, BEFORE) for call in reversed(running(reader)) if _takes(call, landing))


def _takes(call: ModuleCall, landing: fx.Node) -> bool:
    """Return whether the call is fed the landing, first and once."""
    return call.fed is landing and landing not in call.beside


def alike(layer: nn.Module | None) -> object:
    """Return a value that is the same for layers that compute the same; None for no layer."""
    if layer is None:
        return None
    return type(layer).__name__, repr(sorted((k, v) for k, v in vars(layer).items() if not k.startswith("_")))


def behind_nothing(landing: fx.Node) -> fx.Node:
    """Return the node before the landing, where that only adds the number 0 to it, as sums of branches begin."""
    while landing.op == "call_function" and landing.target in ADDITIONS:
        sources = [arg for arg in landing.args if isinstance(arg, fx.Node)]
        if len(landing.args) != 2 or len(sources) != 1 or len(sources[0].users) != 1 or landing.kwargs:
            break
        if not any(type(arg) in (int, float) and arg == 0 for arg in landing.args):
            break
        landing = sources[0]
    return landing


ADDITIONS = frozenset({operator.add, operator.iadd, torch.add})
