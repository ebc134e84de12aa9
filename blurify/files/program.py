"""`torch.export` archives (`.pt2`): a program of PyTorch's own operators, which runs where blurify is not installed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_unflatten

from blurify.errors import FileError, one_line
from blurify.files.atomic import Check, check_output, write_atomically
from blurify.files.graphs import unguarded
from blurify.files.untrusted.exported import checked_archive
from blurify.tracing.export import quietly
from blurify.tracing.inputs import Inputs, random_batch
from blurify.tracing.modes import evaluating

# Below this a blur's padding takes another form, which a program is not exported for.
SMALLEST = 5


@dataclass(frozen=True)
class ProgramSignature:
    """Hold an exported program's inputs: an example, and the dynamic sizes of every argument.

    One that was ONNX has names for what goes in and out, and an opset.
    """

    inputs: Inputs
    open_sizes: Mapping[str, Any]
    open_for: str = "the sizes it had"
    advice: str = "write another format than .pt2"

    @classmethod
    def of_picture(cls, model: nn.Module, example: Tensor, dynamic_size: bool) -> ProgramSignature:
        """Batches of any length of an image `(1, C, H, W)`, and images of any size if that is wanted."""
        # A batch of one would be taken for a constant.
        batch = example.repeat(2, *(1 for _ in example.shape[1:]))
        axes = (0, *range(2, example.dim())) if dynamic_size else (0,)
        (name, *_) = inspect.signature(model.forward).parameters
        sizes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC)}
        if dynamic_size:
            return cls(Inputs((batch,)), sizes, "batches and images of any size", "leave --dynamic-size out")
        return cls(Inputs((batch,)), sizes, "batches of any length")


def save_program(
    model: nn.Module,
    path: Path,
    example: Tensor | ProgramSignature,
    *,
    dynamic_size: bool = False,
    force: bool = False,
    check: Check | None = None,
) -> None:
    """Export the model after `.eval()`, for batches of any length, and write the program whole or not at all.

    `example` is an image `(1, C, H, W)`; with `dynamic_size` the program takes images of other sizes as well. Or it
    is the signature of a program that was read, which is kept.

    >>> save_program(blurify.antialias(model), Path("resnet18.pt2"), torch.zeros(1, 3, 224, 224))
    """
    check_output(path, force=force)
    program = export(model, example, dynamic_size)
    write_atomically(path, lambda opened: torch.export.save(program, opened), check)


def export(model: nn.Module, example: Tensor | ProgramSignature, dynamic_size: bool) -> torch.export.ExportedProgram:
    """Return the program, of sizes that are proved to be open.

    Raises:
        FileError: the model cannot be exported so.
    """
    taken = (
        example if isinstance(example, ProgramSignature) else ProgramSignature.of_picture(model, example, dynamic_size)
    )
    try:
        with evaluating(model), quietly():
            return torch.export.export(
                model, taken.inputs.args, taken.inputs.kwargs, dynamic_shapes=dict(taken.open_sizes), strict=False
            )
    except Exception as error:
        fact = one_line(error, 300)
        raise FileError(
            f"{type(model).__name__} cannot be exported for {taken.open_for}: {fact}; {taken.advice}."
        ) from error


def read_program(path: Path) -> tuple[fx.GraphModule, ProgramSignature]:
    """Return the program in an archive of `torch.export`, as a graph over its own weights, and what it takes.

    >>> model, signature = read_program(Path("resnet18.pt2"))

    Raises:
        UnsafeFileError: reading it would run, or could run, what the file says.
        FileError: it is damaged, or of another age than torch is.
    """
    archive = checked_archive(path)
    try:
        with quietly():
            program = torch.export.load(archive)
            return as_graph(program)
    except Exception as error:  # a damaged graph can fail in any way at all
        fact = one_line(error, 200)
        raise FileError(f"{path} cannot be read: {fact}; export the model again with this version of torch.") from error


def as_graph(program: torch.export.ExportedProgram) -> tuple[fx.GraphModule, ProgramSignature]:
    """Return the program as a graph that the pass takes, and what it takes itself."""
    for name, tensor in program.state_dict.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} declares more values than it has")
    model = unguarded(program)
    specification = program.module_call_graph[0].signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    leaves = [values.get(given) if isinstance(given, str) else given for given in program.graph_signature.user_inputs]
    dims = _dims(leaves, program.range_constraints)
    examples, sizes = [_example(leaf) for leaf in leaves], [_open_sizes(leaf, dims) for leaf in leaves]
    args, kwargs = tree_unflatten(examples, specification.in_spec)
    bound = inspect.signature(model.forward).bind(*tree_unflatten(sizes, specification.in_spec)[0])
    open_sizes = {**bound.arguments, **tree_unflatten(sizes, specification.in_spec)[1]}
    return model, ProgramSignature(Inputs(args, kwargs), open_sizes)


def _example(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    sizes: tuple[Any, ...] = tuple(leaf.shape)
    shape = tuple(size if isinstance(size, int) else int(size.node.hint or 2) for size in sizes)
    if leaf.is_floating_point():
        return random_batch(shape, torch.empty(0, dtype=leaf.dtype))
    return torch.zeros(shape, dtype=leaf.dtype)


def _open_sizes(leaf: Any, dims: Mapping[Any, Any]) -> dict[int, Any] | None:
    if not isinstance(leaf, Tensor):
        return None
    sizes: dict[int, Any] = {axis: size for axis, size in enumerate(leaf.shape) if not isinstance(size, int)}
    return {axis: dims.get(size.node.expr, torch.export.Dim.DYNAMIC) for axis, size in sizes.items()}


def _dims(leaves: list[Any], bounds: Mapping[Any, Any]) -> dict[Any, Any]:
    """Name the dynamic sizes for torch: a size shared by several axes has one name, and known bounds are kept."""
    axes: dict[Any, list[int]] = {}
    for leaf in leaves:
        shape: tuple[Any, ...] = tuple(leaf.shape) if isinstance(leaf, Tensor) else ()
        for axis, size in enumerate(shape):
            if not isinstance(size, int) and size.node.expr.is_Symbol:
                axes.setdefault(size.node.expr, []).append(axis)
    return {symbol: _dim(symbol, bounds.get(symbol), of_it) for symbol, of_it in axes.items()}


def _dim(symbol: Any, bounds: Any, axes: list[int]) -> Any:
    lower, upper = _bound(bounds, "lower"), _bound(bounds, "upper")
    if len(axes) == 1:
        return torch.export.Dim.DYNAMIC(max=upper)
    # A name must say all that is known of its size.
    smallest = max(lower or 0, SMALLEST if min(axes) > 1 else 0)
    return torch.export.Dim(str(symbol), min=smallest, max=upper)


def _bound(bounds: Any, side: str) -> int | None:
    number: Any = getattr(bounds, side, None)
    return int(number) if number is not None and bool(number.is_Integer) else None
