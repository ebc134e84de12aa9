"""`torch.export` archives (`.pt2`): a program of PyTorch's own operators, which runs where blurify is not installed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from blurify.errors import FileError
from blurify.files.atomic import check_output, write_atomically
from blurify.tracing.export import quietly
from blurify.tracing.modes import evaluating


def save_program(
    model: nn.Module, path: Path, example: Tensor, *, dynamic_size: bool = False, force: bool = False
) -> None:
    """Export the model after `.eval()`, for batches of any length, and write the program whole or not at all.

    `example` is a picture `(1, C, H, W)`; with `dynamic_size` the program takes pictures of other sizes as well.

    >>> save_program(blurify.antialias(model), Path("resnet18.pt2"), torch.zeros(1, 3, 224, 224))
    """
    check_output(path, force=force)
    program = export(model, example, dynamic_size)
    write_atomically(path, lambda opened: torch.export.save(program, opened))


def export(model: nn.Module, example: Tensor, dynamic_size: bool) -> torch.export.ExportedProgram:
    """The program, of sizes that are proved to be open.

    Raises:
        FileError: the model cannot be exported so.
    """
    # A batch of one would be taken for a constant.
    batch = example.repeat(2, *(1 for _ in example.shape[1:]))
    axes = (0, *range(2, example.dim())) if dynamic_size else (0,)
    try:
        with evaluating(model), quietly():
            return torch.export.export(
                model, (batch,), dynamic_shapes=(dict.fromkeys(axes, torch.export.Dim.DYNAMIC),), strict=False
            )
    except Exception as error:
        what = "batches and pictures of any size" if dynamic_size else "batches of any length"
        fact = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        hint = "leave --dynamic-size out" if dynamic_size else "write another format than .pt2"
        raise FileError(f"{type(model).__name__} cannot be exported for {what}: {fact}; {hint}.") from error
