"""Dimensions as products of atoms, outermost first, in the order in which `view` splits and joins them.

The height of a map is one atom. In `view(n, c, h // 2, 2, w // 2, 2)` it is two: `h // 2` positions at step 2, and 2
positions at step 1. Ops that move values move atoms, and ops that reduce a dimension drop its atoms.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

# The axis of positions whose order is not known, such as the tokens of several maps in one sequence.
MIXED = -1


class Atom(NamedTuple):
    """A number of positions along a spatial axis, a step apart; channels and the batch have no axis."""

    axis: int | None
    size: int
    step: Fraction = Fraction(1)


Dim = tuple[Atom, ...]
Layout = tuple[Dim, ...]


def dim_of(size: int, axis: int | None = None, step: Fraction = Fraction(1)) -> Dim:
    """Return the dimension of one atom; one of a single position has none."""
    return (Atom(axis, size, step),) if size > 1 else ()


def plain(shape: Iterable[int]) -> Layout:
    """Return the layout of a tensor without positions."""
    return tuple(dim_of(size) for size in shape)


def sizes(layout: Layout) -> tuple[int, ...]:
    """Return the shape of a tensor of this layout."""
    shape = []
    for dim in layout:
        size = 1
        for atom in dim:
            size *= atom.size
        shape.append(size)
    return tuple(shape)


def has_positions(dims: Iterable[Dim]) -> bool:
    """Return whether any of the dimensions runs over positions of a map."""
    return any(atom.axis is not None for dim in dims for atom in dim)


def finest(layout: Layout) -> dict[int, Fraction]:
    """Return the smallest step at which each axis is sampled."""
    steps: dict[int, Fraction] = {}
    for atom in (atom for dim in layout for atom in dim):
        if atom.axis is not None:
            steps[atom.axis] = min(atom.step, steps.get(atom.axis, atom.step))
    return steps


def regrouped(layout: Layout, shape: tuple[int, ...]) -> Layout | None:
    """Return the layout after a row-major reshape; None where a dimension would cut an atom unevenly."""
    atoms = [atom for dim in layout for atom in dim]
    dims: list[Dim] = []
    for size in shape:
        dim: list[Atom] = []
        while size > 1:
            if not atoms:
                return None
            atom = atoms.pop(0)
            if atom.size > size and atom.size % size == 0:
                atom, inner = _split(atom, size)
                atoms.insert(0, inner)
            if size % atom.size:
                return None
            dim.append(atom)
            size //= atom.size
        dims.append(_joined(dim))
    return None if atoms else tuple(dims)


def _split(atom: Atom, outer: int) -> tuple[Atom, Atom]:
    inner = atom.size // outer
    return Atom(atom.axis, outer, atom.step * inner), Atom(atom.axis, inner, atom.step)


def _joined(dim: list[Atom]) -> Dim:
    """Join neighbours that are the parts of one atom."""
    joined: list[Atom] = []
    for atom in dim:
        last = joined[-1] if joined else None
        if last and last.axis == atom.axis and (atom.axis is None or last.step == atom.step * atom.size):
            joined[-1] = Atom(atom.axis, last.size * atom.size, atom.step)
        else:
            joined.append(atom)
    return tuple(joined)
