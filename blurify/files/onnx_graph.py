"""ONNX: a graph of standard operators, in which every blur is a `Pad` and a depthwise `Conv` of constant weights."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, fx, nn

from blurify.errors import BlurifyError, FileError, causes
from blurify.files.atomic import Check, check_output, write_atomically
from blurify.files.program import ProgramSignature, export
from blurify.tracing.export import quietly

# A protobuf message cannot be larger, and weights in files next to it could not be written whole or not at all.
MOST_BYTES = 2**31 - 1


def require_onnx() -> None:
    """Refuse, before any slow work, where no ONNX could be written.

    >>> require_onnx()

    Raises:
        BlurifyError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BlurifyError(
            f"Writing ONNX needs {error.name}, which is not installed; get it with: pip install 'blurify[onnx]'"
        ) from error


def save_onnx(
    model: nn.Module,
    path: Path,
    example: Tensor | ProgramSignature,
    *,
    dynamic_size: bool = False,
    force: bool = False,
    check: Check | None = None,
) -> None:
    """Export the model after `.eval()`, for batches of any length, check it, and write it whole or not at all.

    `example` is an image `(1, C, H, W)`; with `dynamic_size` the graph takes images of other sizes as well.
    Or it is the signature of a program that was read, which is kept.

    >>> save_onnx(blurify.antialias(model), Path("resnet18.onnx"), torch.zeros(1, 3, 224, 224))

    Raises:
        BlurifyError: onnx or onnxscript is not installed.
        FileError: the model cannot be exported so, or is too large for one file.
    """
    require_onnx()
    check_output(path, force=force)
    content = serialized(model, export(model, example, dynamic_size))

    def write(opened: BinaryIO) -> None:
        opened.write(content)

    write_atomically(path, write, check)


def serialized(model: nn.Module, program: torch.export.ExportedProgram) -> bytes:
    """Return the program as the bytes of an ONNX file, which `onnx.checker` has passed."""
    import onnx

    kind = type(model).__name__
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > MOST_BYTES:
        held = f"{size / 2**30:.1f} GiB of weights"
        raise FileError(f"{kind} has {held}, and an ONNX file holds less than 2; write a .pt2 instead.")
    try:
        with quietly():
            divide_afterwards(program.graph_module)
            converted: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        proto = converted.model_proto
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        fact = " ".join(str(_first(error)).split())[:300].rstrip(".") or type(error).__name__
        raise FileError(f"{kind} cannot be written as ONNX: {fact}; write a .pt2 instead.") from error
    return bytes(proto.SerializeToString())


def divide_afterwards(module: fx.GraphModule) -> None:
    """Make a divisor of an average's own a factor after a plain average, since PyTorch's exporter loses it."""
    for node in list(module.graph.nodes):
        if node.target not in AVERAGES or len(node.args) < 7 or node.args[6] is None or node.args[4]:
            continue
        kernel = node.args[1]
        area = prod(kernel) if len(kernel) > 1 else kernel[0] ** AVERAGES[node.target]
        factor, node.args = area / node.args[6], (*node.args[:5], True)
        with module.graph.inserting_after(node):
            scaled = module.graph.call_function(torch.ops.aten.mul.Tensor, (node, factor))
        scaled.meta = dict(node.meta)
        node.replace_all_uses_with(scaled, delete_user_cb=lambda user, scaled=scaled: user is not scaled)
    module.recompile()


# The averages that may have a divisor of their own, with their number of axes.
AVERAGES: dict[Any, int] = {torch.ops.aten.avg_pool2d.default: 2, torch.ops.aten.avg_pool3d.default: 3}


def _first(error: BaseException) -> BaseException:
    """Return what led to all else: the exporter's own words around it say at which of its steps, and to debug it."""
    return list(causes(error, contexts=False))[-1]
