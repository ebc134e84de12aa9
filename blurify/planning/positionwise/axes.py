"""Recognise operations that move, split or merge axes; the values stay at their positions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from blurify.planning.positionwise.values import (
    IN_ONE,
    SPATIAL,
    Constant,
    Map,
    Operation,
    Pieces,
    Size,
    Sizes,
    Value,
    broadcast,
    channel_dims,
    index_of,
)

# Where an export ends a slice that has no end.
WHOLE = sys.maxsize


def permute(call: Operation) -> Value | None:
    """Return the map with its axes in another order."""
    source, order = call.args[0], call.get(1, "dims") if "dims" in call.kwargs else call.rest()
    found = [index_of(source.layout, dim) for dim in order] if isinstance(order, (tuple, list)) else []
    if sorted(dim for dim in found if dim is not None) != list(range(len(source.layout))):
        return None
    return _like(source, [source.layout[dim] for dim in found if dim is not None])


def transpose(call: Operation) -> Value | None:
    """Return the map with two axes exchanged."""
    layout = call.args[0].layout
    one = index_of(layout, call.get(1, "dim0", "axis0"))
    other = index_of(layout, call.get(2, "dim1", "axis1"))
    if one is None or other is None:
        return None
    roles = list(layout)
    roles[one], roles[other] = roles[other], roles[one]
    return _like(call.args[0], roles)


def movedim(call: Operation) -> Value | None:
    """Return the map with an axis at another place."""
    layout = call.args[0].layout
    source = index_of(layout, call.get(1, "source"))
    target = index_of(layout, call.get(2, "destination"))
    if source is None or target is None:
        return None
    roles = list(layout)
    roles.insert(target, roles.pop(source))
    return _like(call.args[0], roles)


def unsqueeze(call: Operation) -> Value | None:
    """Return the map with a new axis."""
    roles = list(call.args[0].layout)
    at = index_of(" " * (len(roles) + 1), call.get(1, "dim"))
    if at is None:
        return None
    roles.insert(at, "1")
    return _like(call.args[0], roles)


def squeeze(call: Operation) -> Value | None:
    """Return the map without an axis that is known to have one value."""
    layout = call.args[0].layout
    at = index_of(layout, call.get(1, "dim"))
    return _like(call.args[0], [*layout[:at], *layout[at + 1 :]]) if at is not None and layout[at] == "1" else None


def unflatten(call: Operation) -> Value | None:
    """Return the map with its channels in groups, or its positions on their axes again."""
    layout, sizes = call.args[0].layout, call.get(2, "sizes", "unflattened_size")
    at = index_of(layout, call.get(1, "dim"))
    if at is None or not isinstance(sizes, (tuple, list)):
        return None
    roles = "c" * len(sizes) if layout[at] in "c1" else _axes_of(sizes)
    if layout[at] not in "c1" and IN_ONE.get(roles) != layout[at]:
        return None
    return _like(call.args[0], [*layout[:at], *roles, *layout[at + 1 :]])


def _axes_of(sizes: Any) -> str:
    return "".join(size.role for size in sizes if isinstance(size, Size)) if _are_sizes(sizes) else ""


def _are_sizes(sizes: Any) -> bool:
    return all(isinstance(size, Size) and size.is_spatial for size in sizes)


def flatten(call: Operation) -> Value | None:
    """Return the map with groups of channels put together, or all positions in a row."""
    layout = call.args[0].layout
    start = index_of(layout, call.get(1, "start_dim", default=0))
    end = index_of(layout, call.get(2, "end_dim", default=-1))
    if start is None or end is None:
        return None
    joined = layout[start : end + 1]
    role = "c" if set(joined) <= set("c1") else IN_ONE.get(joined)
    return None if role is None else _like(call.args[0], [*layout[:start], role, *layout[end + 1 :]])


def pieces(call: Operation) -> Value | None:
    """Return parts of the channels."""
    at = channel_dims(call.args[0].layout, call.get(2, "dim", default=0))
    return Pieces(call.args[0]) if at is not None else None


def unbind(call: Operation) -> Value | None:
    """Return the channels one by one."""
    layout = call.args[0].layout
    at = channel_dims(layout, call.get(1, "dim", default=0))
    return None if at is None else Pieces(_like(call.args[0], [*layout[: at[0]], *layout[at[0] + 1 :]]))


def select(call: Operation) -> Value | None:
    """Return one of the channels."""
    one = unbind(call)
    return one.each if isinstance(one, Pieces) else None


def some(call: Operation) -> Value | None:
    """Return some of the channels, or one repeated."""
    at = channel_dims(call.args[0].layout, call.get(1, "dim", default=0))
    start, end = call.get(2, "start", "index"), call.get(3, "length", "end")
    if at is None:
        # An export slices every axis, most of them whole.
        whole = (
            call.name == "slice" and start in (None, 0) and end in (None, WHOLE) and call.get(4, "step") in (None, 1)
        )
        return call.args[0] if whole else None
    known = all(other is None or isinstance(other, (int, Size, Constant)) for other in (start, end))
    return _as_channels(call.args[0], at[0]) if known else None


def getitem(call: Operation) -> Value | None:
    """Return an item of a sequence, or the channels that an index picks."""
    source, index = call.args
    if isinstance(source, Pieces):
        return source.each if type(index) is int else Pieces(source.each) if isinstance(index, slice) else None
    if isinstance(source, tuple):
        return source[index] if type(index) is int and 0 <= index < len(source) else None
    if isinstance(source, Sizes):
        if isinstance(index, slice):
            written = all(type(end) in (int, type(None)) for end in (index.start, index.stop, index.step))
            return Sizes(source.layout[index]) if written else None
        at = index_of(source.layout, index)
        return None if at is None else Size(source.layout[at])
    return indexed(source, index if isinstance(index, tuple) else (index,))


def indexed(source: Map, index: tuple[Any, ...]) -> Map | None:
    """Return `source[index]` for an index that takes every position."""
    named = sum(part is not None and part is not Ellipsis for part in index)
    if index.count(Ellipsis) > 1 or named > len(source.layout):
        return None
    if Ellipsis not in index:
        index = (*index, Ellipsis)
    left, roles = source.layout, ""
    for part in index:
        count = len(source.layout) - named if part is Ellipsis else 0 if part is None else 1
        taken, left = left[:count], left[count:]
        if part is None:
            roles += "1"
        elif part is Ellipsis or part == slice(None):
            roles += taken
        elif taken not in "c1" or not isinstance(part, (int, slice, list, Constant)):
            return None
        elif not isinstance(part, int):
            roles += "c"
    # Indexing by a list and a number next to it moves axes.
    lists = sum(isinstance(part, (list, Constant)) for part in index)
    return None if lists > 1 or (lists and any(isinstance(part, int) for part in index)) else _like(source, roles)


def cat(call: Operation) -> Value | None:
    """Return maps of one region joined along channels."""
    maps = _maps(call.args[0])
    layout = broadcast([each.layout for each in maps]) if maps else None
    at = None if layout is None else channel_dims(layout, call.get(1, "dim", "axis", default=0))
    if layout is None or at is None or len({len(each.layout) for each in maps}) > 1:
        return None
    return _as_channels(Map(layout, all(each.floating for each in maps)), at[0])


def stack(call: Operation) -> Value | None:
    """Return maps of one region joined along a new axis."""
    maps = _maps(call.args[0])
    if not maps or len({each.layout for each in maps}) > 1:
        return None
    joined = Map(maps[0].layout, all(each.floating for each in maps))
    wider = unsqueeze(Operation("unsqueeze", (joined, call.get(1, "dim", default=0)), {}))
    return _as_channels(wider, wider.layout.index("1")) if isinstance(wider, Map) and "1" not in joined.layout else None


def expand(call: Operation) -> Value | None:
    """Return the map with axes of size 1 as long as is asked for, if these are channels."""
    source, sizes = call.args[0], call.rest("size", "sizes")
    if isinstance(sizes, Sizes):
        sizes = [Size(role) for role in sizes.layout]
    if not isinstance(sizes, (tuple, list)) or len(sizes) != len(source.layout):
        return None
    roles = [_expanded(role, size) for role, size in zip(source.layout, sizes, strict=True)]
    return None if None in roles else _like(source, [role for role in roles if role])


def _expanded(role: str, size: Any) -> str | None:
    if size == -1 or size == Size(role):
        return role
    known = isinstance(size, int) or (isinstance(size, Size) and not size.is_spatial)
    return {"1": "c", "c": "c"}.get(role) if known else None


def expand_as(call: Operation) -> Value | None:
    """Return the map as large as another of the region, or seen as that."""
    source, other = call.args[:2] if len(call.args) > 1 else (call.args[0], call.get(1, "other"))
    if not isinstance(other, Map) or broadcast([source.layout, other.layout]) != other.layout:
        return None
    return Map(other.layout, source.floating)


def repeat(call: Operation) -> Value | None:
    """Return the channels several times."""
    source, counts = call.args[0], call.rest("repeats", "dims", "sizes")
    if not isinstance(counts, (tuple, list)) or len(counts) != len(source.layout):
        return None
    again = [dim for dim, count in enumerate(counts) if count != 1]
    return source if not again or channel_dims(source.layout, again) else None


def reshape(call: Operation) -> Value | None:
    """Return the map with its channels in other groups: each position is named by the sizes of the region's maps.

    Channels lie before the positions or behind them: what is before is as many numbers before as after.
    """
    source, sizes = call.args[0], call.rest("size", "shape")
    if isinstance(sizes, Sizes):
        sizes = [Size(role) for role in sizes.layout]
    if not isinstance(sizes, (tuple, list)):
        return None
    layout = source.layout
    positions = "".join(role for role in layout if role in SPATIAL)
    before, _, behind = layout.partition(positions)
    named = "".join(size.role for size in sizes if isinstance(size, Size) and size.is_spatial)
    if list(sizes) == [*map(Size, before), -1] and layout == before + positions and positions in IN_ONE:
        return _like(source, [*before, IN_ONE[positions]])
    if positions not in layout or IN_ONE.get(named, named) != IN_ONE.get(positions, positions):
        return None
    spatial, axes = [Size(role) for role in named], len(named)
    if not behind and list(sizes[-axes:]) == spatial and len(sizes) > axes:
        return _like(source, ["b", *"c" * (len(sizes) - axes - 1), *named])
    if before == "b" and list(sizes[: axes + 1]) == [Size("b"), *spatial] and len(sizes) > axes + 1:
        return _like(source, ["b", *named, *"c" * (len(sizes) - axes - 1)])
    return None


def _maps(value: Any) -> list[Map]:
    if isinstance(value, Pieces):
        return [value.each]
    listed = list(value) if isinstance(value, (tuple, list)) else []
    return listed if all(isinstance(each, Map) for each in listed) else []


def _as_channels(source: Map, at: int) -> Map:
    return _like(source, [*source.layout[:at], "c", *source.layout[at + 1 :]])


def _like(source: Map, roles: Any) -> Map:
    return Map("".join(roles), source.floating)


MOVES: dict[str, Callable[[Operation], Value | None]] = {
    **dict.fromkeys("permute permute_copy".split(), permute),
    **dict.fromkeys("transpose swapaxes swapdims transpose_copy".split(), transpose),
    **dict.fromkeys("movedim moveaxis".split(), movedim),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "unflatten": unflatten,
    "flatten": flatten,
    **dict.fromkeys("chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split".split(), pieces),
    "unbind": unbind,
    "select": select,
    **dict.fromkeys("narrow slice index_select slice_copy".split(), some),
    **dict.fromkeys("expand broadcast_to".split(), expand),
    **dict.fromkeys("expand_as view_as reshape_as".split(), expand_as),
    **dict.fromkeys("repeat tile".split(), repeat),
    **dict.fromkeys("view reshape _unsafe_view".split(), reshape),
}
JOINS: dict[str, Callable[[Operation], Value | None]] = {
    **dict.fromkeys("cat concat concatenate".split(), cat),
    "stack": stack,
}
