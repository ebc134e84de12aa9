"""Follow the positions of maps through a graph: which dimensions run over them, and at what step of input pixels."""

from blurify.positions.atoms import MIXED, Atom, Layout, finest, has_positions, sizes
from blurify.positions.follow import elements, follow, loses_positions
from blurify.positions.moves import (
    MAXIMA,
    MEANS,
    REGROUPS,
    SUMS,
    argument,
    first_item,
    is_column_unfold,
    moved,
    reduced,
    reduced_dims,
    upstream,
)

__all__ = [
    "MAXIMA",
    "MEANS",
    "MIXED",
    "REGROUPS",
    "SUMS",
    "Atom",
    "Layout",
    "argument",
    "elements",
    "finest",
    "first_item",
    "follow",
    "has_positions",
    "is_column_unfold",
    "loses_positions",
    "moved",
    "reduced",
    "reduced_dims",
    "sizes",
    "upstream",
]
