"""TorchScript out, where it still works: a trace of the evaluated model, which runs where blurify is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from blurify.errors import BlurifyError, FileError, one_line
from blurify.files.atomic import Check, check_output, write_atomically
from blurify.files.program import ProgramSignature
from blurify.tracing.export import quietly
from blurify.tracing.inputs import random_batch
from blurify.tracing.modes import evaluating

# What rounding can do between a trace and what was traced, relative to the largest output.
TOLERANCE = 1e-4


def save_torchscript(
    model: nn.Module,
    path: Path,
    example: Tensor | ProgramSignature,
    *,
    dynamic_size: bool = False,
    force: bool = False,
    check: Check | None = None,
) -> None:
    """Trace the model after `.eval()`, compare it on other batches, and write it whole or not at all.

    `example` is an image `(1, C, H, W)`; with `dynamic_size` images of another size are compared too. Or it is the
    signature of a program that was read.

    >>> save_torchscript(blurify.antialias(model), Path("resnet18.torchscript"), torch.zeros(1, 3, 224, 224))

    Raises:
        BlurifyError: this torch has no TorchScript any more.
        FileError: the model cannot be traced, or its trace computes something else.
    """
    require_torchscript()
    check_output(path, force=force)
    traced = trace_script(model, example, dynamic_size)
    save: Any = torch.jit.save
    with quietly():
        write_atomically(path, lambda opened: save(traced, opened), check)


def require_torchscript() -> None:
    """Refuse, before any slow work, where TorchScript cannot be written.

    >>> require_torchscript()

    Raises:
        BlurifyError: it is gone from torch, which has called it deprecated since 2.9.
    """
    if not all(hasattr(torch.jit, name) for name in ("trace", "save")):
        raise BlurifyError(f"torch {torch.__version__} cannot write TorchScript any more; write a .pt2 instead.")


def trace_script(model: nn.Module, example: Tensor | ProgramSignature, dynamic_size: bool) -> Any:
    """Return the trace, which was seen to compute what the model does on inputs that it was not made from."""
    kind = type(model).__name__
    given, others = _inputs(example, dynamic_size)
    trace: Any = torch.jit.trace
    try:
        with evaluating(model), quietly(), torch.no_grad():
            traced = trace(model, given, check_trace=False, strict=False)
            differences = [_difference(model(*other), traced(*other)) for other in others]
    except Exception as error:
        fact = one_line(error, 200)
        raise FileError(f"{kind} cannot be written as TorchScript: {fact}; write a .pt2 instead.") from error
    if not max(differences) <= TOLERANCE:
        sizes = "batches and images of any size" if dynamic_size else "batches of any length"
        raise FileError(f"{kind} cannot be written as TorchScript for {sizes}, since its trace decides by the size.")
    return traced


def _inputs(example: Tensor | ProgramSignature, dynamic_size: bool) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    if isinstance(example, ProgramSignature):
        return example.inputs.args, [example.inputs.copied().args]
    shape = tuple(example.shape)
    larger = tuple(size + 13 for size in shape[2:])
    others = [(3, *shape[1:]), *([(1, shape[1], *larger)] if dynamic_size else [])]
    return (random_batch((2, *shape[1:]), example),), [(random_batch(other, example),) for other in others]


def _difference(expected: Any, actual: Any) -> float:
    pairs = list(zip(tree_leaves(expected), tree_leaves(actual), strict=True))
    if any(mine.shape != theirs.shape for mine, theirs in pairs):
        return float("inf")
    return max(float((mine - theirs).abs().max() / mine.abs().max().clamp(min=1e-12)) for mine, theirs in pairs)
