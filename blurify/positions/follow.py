"""Which dimensions of each tensor of a graph run over positions of the input, and at what step of its pixels.

What an op is not known to do is told by the sizes of what it is fed and gives: a dimension of the same size stays what
it was, and one that is smaller by a whole factor is sampled as much more coarsely.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.paths import name_of
from blurify.layers import DENSE_MAX_POOLS, INDEXED_MAX_POOLS
from blurify.positions.atoms import MIXED, Atom, Dim, Layout, dim_of, finest, has_positions, plain, sizes
from blurify.positions.moves import argument, cut, indexed, moved, reduced, sliced

Shape = tuple[int, ...]
ModuleOf = Callable[[fx.Node], nn.Module | None]

# Layers, functions and operators for so many axes are called so, all but a few.
FOR_AXES = re.compile(r"[A-Za-z_]([123])d")
# Many of `F`'s are closures whose name is another's.
BY_IDENTITY: dict[Any, str] = {
    getattr(owner, name): name for owner in (F, torch) for name in dir(owner) if FOR_AXES.search(name)
}
RESIZES = frozenset({"interpolate", "upsample", "pixel_shuffle", "pixel_unshuffle", "Upsample"})
SHUFFLES = frozenset({"pixel_shuffle", "pixel_unshuffle", "PixelShuffle", "PixelUnshuffle"})
JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
CUTS = frozenset({"chunk", "split", "split_with_sizes", "narrow", "tensor_split", "unsafe_chunk", "topk"})
PRODUCTS = frozenset({"linear", "matmul", "bmm", "addmm", "baddbmm", "mm", "scaled_dot_product_attention", "einsum"})
MOST_CHANNELS = 4  # of an input whose channels are last


def follow(graph: fx.Graph, shape_of: Callable[[fx.Node], Shape | None], module_of: ModuleOf) -> dict[fx.Node, Layout]:
    """Return the layout of every tensor of a graph whose shape is known."""
    known: dict[fx.Node, Layout] = {}
    for node in graph.nodes:
        shape = shape_of(node)
        if shape is not None:
            known[node] = layout_of(node, shape, known, module_of(node))
    return known


def layout_of(node: fx.Node, shape: Shape, known: Mapping[fx.Node, Layout], module: nn.Module | None) -> Layout:
    """Return the layout of one node's output, from those of its inputs."""
    if node.op == "placeholder":
        return of_input(shape)
    sources = [known[source] for source in elements(node) if source in known]
    axes = spatial_axes(node, module, len(shape))
    # A convolution of one axis runs over channels where the input is an image whose positions were pooled.
    if 0 < axes < len(shape) and sources and (axes > 1 or has_positions(sources[0]) or not _are_images(known)):
        return sampled(node, module, sources[0], shape, axes)
    maps = [layout for layout in sources if has_positions(layout)]
    if not maps:
        return plain(shape)
    found = by_name(node, sources[0], shape) if has_positions(sources[0]) else None
    return found if found is not None and sizes(found) == shape else by_size(node, module, maps, shape)


def elements(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that a node reads; of a mapping made in the graph, what it was made of."""
    found: list[fx.Node] = []
    for source in node.all_input_nodes:
        made: Any = source.args[0] if isinstance(source.target, type) and source.args else None
        key = node.args[1] if node.target is operator.getitem else None
        picked = made.get(key) if isinstance(made, Mapping) and isinstance(key, str) else None
        found += [picked] if isinstance(picked, fx.Node) else elements(source) if made is not None else [source]
    return found


def _are_images(known: Mapping[fx.Node, Layout]) -> bool:
    return any(has_positions(layout) for source, layout in known.items() if source.op == "placeholder")


def of_input(shape: Shape) -> Layout:
    """Return the layout of an input: images, with channels first or last, volumes, or clips of frames."""
    rank = len(shape)
    if rank not in (4, 5):
        return plain(shape)
    last = shape[-1] <= MOST_CHANNELS < shape[1]
    clip = rank == 5 and shape[2] <= MOST_CHANNELS < shape[1]
    dims = [*range(1, rank - 1)] if last else [1, 3, 4] if clip else [*range(2, rank)]
    return tuple(dim_of(size, dims.index(dim) if dim in dims else None) for dim, size in enumerate(shape))


def spatial_axes(node: fx.Node, module: nn.Module | None, rank: int) -> int:
    """Return how many of the last dimensions the op works on as positions; 0 where that is not told."""
    name = op_name(node, module)
    if name in SHUFFLES:
        return 2
    if name in RESIZES:
        return rank - 2
    if name == "convolution":
        stride: Any = argument(node, 3, "stride")
        return len(stride) if isinstance(stride, (tuple, list)) else 0
    if module is not None:
        named = (FOR_AXES.search(kind.__name__) for kind in type(module).__mro__)
        return next((int(found[1]) for found in named if found), 0)
    found = FOR_AXES.search(name)
    return int(found[1]) if found else 0


def op_name(node: fx.Node, module: nn.Module | None) -> str:
    """Return the name of a layer's class, or of the function, method or operator that a node calls."""
    if module is not None:
        return type(module).__name__
    if node.op == "call_function" and node.target in BY_IDENTITY:
        return BY_IDENTITY[node.target]
    return name_of(node)


def sampled(node: fx.Node, module: nn.Module | None, source: Layout, shape: Shape, axes: int) -> Layout:
    """Return the layout of a map that a layer for so many axes makes of another."""
    leading = len(shape) - axes
    fed = source[-axes:] if len(source) >= axes else ((),) * axes
    mapped = has_positions(source)
    dims = list(plain(shape[:leading]))
    for axis, (dim, size) in enumerate(zip(fed, shape[leading:], strict=True)):
        factor = _factor(node, module, sizes((dim,))[0], size, axis)
        # Of a map, what has no positions gets none: channels that were put last, or one value that is spread out.
        lost = not has_positions((dim,)) and (mapped or factor < 1)
        dims.append(dim_of(size) if lost else _resampled(dim, size, axis, factor))
    return tuple(dims)


def _resampled(dim: Dim, size: int, axis: int, factor: Fraction) -> Dim:
    if sizes((dim,)) == (size,) and factor == 1 and has_positions((dim,)):
        return dim
    lone = dim[0] if len(dim) == 1 and dim[0].axis is not None else None
    return dim_of(size, lone.axis if lone else axis, (lone.step if lone else Fraction(1)) * factor)


def _factor(node: fx.Node, module: nn.Module | None, fed: int, gives: int, axis: int) -> Fraction:
    """Return how much further apart positions are after an op than before."""
    name = op_name(node, module).lower()
    if fed == gives or not gives:
        return Fraction(1)
    if "transpose" in name or fed < gives or "adaptive" in name or name in RESIZES or "shuffle" in name:
        whole = round(max(fed, gives) / min(fed, gives))
        resized = name in RESIZES or "adaptive" in name or "upsample" in name or "interpolate" in name
        return Fraction(fed, gives) if resized else Fraction(whole) if fed > gives else Fraction(1, whole)
    stride = _stride(node, module, name)
    step = stride[axis % len(stride)] if isinstance(stride, (tuple, list)) and stride else stride
    return Fraction(step if isinstance(step, int) else max(round(fed / gives), 1))


def _stride(node: fx.Node, module: nn.Module | None, name: str) -> Any:
    """Return the stride of a layer or a function that has one; None of all else."""
    # Our dense pools only tell the stride of the op whose dense form they are.
    if module is not None:
        told = (*DENSE_MAX_POOLS.values(), *INDEXED_MAX_POOLS.values())
        return None if isinstance(module, told) else getattr(module, "stride", None)
    if name.startswith("conv"):
        return argument(node, 3, "stride", default=1)
    if name.startswith(("max_pool", "avg_pool")):
        return argument(node, 2, "stride") or argument(node, 1, "kernel_size")
    return None


def by_name(node: fx.Node, source: Layout, shape: Shape) -> Layout | None:
    """Return the layout of ops that are known to move, pick, reduce or contract dimensions."""
    found = moved(node, source, shape) or indexed(node, source, shape)
    if found is None:
        found = reduced(node, source)
    if found is None and name_of(node) in ("slice", "select", "unbind"):
        found = _taken(node, source, shape)
    return found if found is None else depth_to_space(found)


def _taken(node: fx.Node, source: Layout, shape: Shape) -> Layout | None:
    dim = argument(node, 1, "dim", default=0)
    if type(dim) is not int:
        return None
    dim %= len(source)
    if name_of(node) != "slice":
        return source[:dim] + source[dim + 1 :]
    step = argument(node, 4, "step", default=1)
    return (*source[:dim], sliced(source[dim], step, shape[dim]), *source[dim + 1 :])


def depth_to_space(layout: Layout) -> Layout:
    """Return the layout in which channels that stand behind positions of one axis are positions in between."""
    return tuple(_filled(dim) if len(layout) > 3 else dim for dim in layout)


def _filled(dim: Dim) -> Dim:
    if len(dim) == 2 and dim[0].axis is not None and dim[1].axis is None:
        return (Atom(dim[0].axis, dim[0].size * dim[1].size, dim[0].step / dim[1].size),)
    return dim


def by_size(node: fx.Node, module: nn.Module | None, maps: list[Layout], shape: Shape) -> Layout:
    """Return the layout that the sizes tell: of an op on every position, a product, a join, or one that is unknown."""
    name = op_name(node, module)
    picks = name == "getitem" and type(node.args[1]) is int  # one of several results, each of its own size
    if name in PRODUCTS or isinstance(module, nn.Linear):
        return _contracted(maps, shape)
    dims = list(plain(shape))
    for layout in maps:
        fed = sizes(layout)
        if len(fed) > len(shape):
            continue
        offset = len(shape) - len(fed)
        for dim, (atoms, size) in enumerate(zip(layout, shape[offset:], strict=True)):
            if has_positions((atoms,)) and not has_positions((dims[offset + dim],)):
                dims[offset + dim] = _by_size(atoms, fed[dim], size, picks or name in JOINS | CUTS)
    return tuple(dims)


def _by_size(dim: Dim, fed: int, size: int, cuts: bool) -> Dim:
    if fed == size:
        return dim
    if cuts or len(dim) != 1 or not size:
        return cut(dim, size)
    (atom,) = dim
    shrinks = fed % size == 0
    return dim_of(size, atom.axis, atom.step * (fed // size) if shrinks else atom.step)


def _contracted(maps: list[Layout], shape: Shape) -> Layout:
    """Return the layout of a product of matrices: all but the last dimension are those of the first factor."""
    first = maps[0]
    same = len(first) == len(shape) and sizes(first)[:-1] == shape[:-1]
    return (*first[:-1], dim_of(shape[-1])) if same else plain(shape)


def loses_positions(node: fx.Node, module: nn.Module | None, source: Layout, result: Layout) -> bool:
    """Return whether positions are further apart along some axis after an op than before, and more than one is left.

    An op that gives as many values as it is fed may have moved positions to channels, and is not counted; nor is one
    that mixes channels, whatever positions were moved there.
    """
    if prod(sizes(source)) == prod(sizes(result)):
        return False
    axes = spatial_axes(node, module, len(result))
    if axes:
        source = source[-axes:]
    elif op_name(node, module) in PRODUCTS or isinstance(module, nn.Linear):
        source = source[:-1]
    before, after = finest(source), finest(result)
    return any(step > before.get(axis, step) for axis, step in after.items() if axis != MIXED)
