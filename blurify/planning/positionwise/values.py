"""Values of a region's nodes: maps whose axes are known, sizes, and constants.

A layout has one letter for each dimension: `b` for samples, `c` for channels, `1` for a dimension of size 1, and `z`,
`y`, `x` for the spatial axes of the site's map, or `Z`, `Y` for all three or two of them in one, as tokens have them.
Every map of a region has each spatial axis once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Union

AXES = "zyx"
IN_ONE = {"zyx": "Z", "yx": "Y", "x": "x"}
SPATIAL = AXES + "ZY"


@dataclass(frozen=True)
class Map:
    """A tensor that has, at each position, a function of the site's map at that position; only floats are blurred."""

    layout: str
    floating: bool = True


@dataclass(frozen=True)
class Pieces:
    """A sequence of maps of one kind, of any length."""

    each: Map


@dataclass(frozen=True)
class Sizes:
    """The shape of a map, or a part of it."""

    layout: str


@dataclass(frozen=True)
class Size:
    """A number that is a map's size along one dimension; no letter for what depends on no map."""

    role: str = ""

    @property
    def is_spatial(self) -> bool:
        """Return whether subsampling changes the number."""
        return bool(self.role) and self.role in SPATIAL


@dataclass(frozen=True)
class Constant:
    """A tensor that depends on no input."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """A call by its plain name, with values in the place of nodes."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def get(self, position: int, *names: str, default: Any = None) -> Any:
        """Return the argument at the position, or of one of the names."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def rest(self, *names: str) -> Any:
        """Return the one sequence, or all the numbers, given after the first argument."""
        if len(self.args) < 2:
            return self.get(1, *names)
        return self.args[1] if isinstance(self.args[1], (tuple, list, Sizes)) else self.args[1:]


Value = Union[Map, Pieces, Sizes, Size, "tuple[Map | None, ...]"]


def canonical(axes: int, batched: bool = True) -> str:
    """Return the layout of a conv's output.

    >>> canonical(2)
    'bcyx'
    """
    return ("bc" if batched else "c") + AXES[-axes:]


def is_canonical(layout: str, axes: int) -> bool:
    """Return whether a blur layer takes a map of this layout."""
    return layout.replace("1", "c") in (canonical(axes), canonical(axes, batched=False))


def is_free(value: object) -> bool:
    """Return whether a value is the same before and after subsampling."""
    return isinstance(value, Size) and not value.is_spatial


def index_of(layout: str, dim: object) -> int | None:
    """Return the dimension counted from 0; None if it is no dimension of the layout."""
    if type(dim) is not int or not -len(layout) <= dim < len(layout):
        return None
    return dim % len(layout)


def channel_dims(layout: str, dims: object) -> list[int] | None:
    """Return the dimensions counted from 0 if all of them are channels, else None."""
    listed = list(dims) if isinstance(dims, (tuple, list)) else [dims]
    found = [index_of(layout, dim) for dim in listed]
    known = [dim for dim in found if dim is not None and layout[dim] in "c1"]
    return known if known and len(known) == len(listed) else None


def broadcast(layouts: Iterable[str], shapes: Iterable[tuple[int, ...]] = ()) -> str | None:
    """Return the layout of maps and constants aligned from the right; None where positions would be mixed.

    >>> broadcast(["bcyx", "b1yx"], [(8, 1, 1)])
    'bcyx'
    """
    kinds, extents = list(layouts), list(shapes)
    width = max(map(len, kinds))
    if any(len(shape) > width for shape in extents):
        return None
    roles = []
    for at in range(-width, 0):
        named = {layout[at] for layout in kinds if len(layout) >= -at}
        spread = any(shape[at] != 1 for shape in extents if len(shape) >= -at)
        roles.append(_joined(named, spread))
    return None if None in roles else "".join(role for role in roles if role)


def _joined(roles: set[str], spread: bool) -> str | None:
    """Return the role of aligned dimensions; `spread` says that a constant has several values along it."""
    if roles & set(SPATIAL):
        # A spatial axis is beside itself alone: beside a 1, another axis would be beside another.
        return roles.pop() if len(roles) == 1 and not spread else None
    named = roles - {"1"} or ({"c"} if spread else {"1"})
    return named.pop() if len(named) == 1 else None
