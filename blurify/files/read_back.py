"""*File*: what was written is read back and run, and gives what the converted model gives.

It is done before the file gets its name, so a file that fails leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from blurify.errors import ArgumentError, FileError, first_line
from blurify.files.program import ProgramSignature
from blurify.files.reading import load
from blurify.tracing.export import quietly
from blurify.tracing.inputs import Inputs, random_batch
from blurify.tracing.modes import as_found
from blurify.verifying.outputs import compare, named_tensors, run, seeded
from blurify.verifying.verdict import Row

# What reads a file, and gives a function of the positional and the keyword arguments of a call.
Call = Callable[..., Any]
Reader = Callable[[Path, str | None], Call]


class CannotRun(Exception):
    """Raised where the runtime of a file is missing, or lacks an operator of it."""


def read_back(reader: Reader, model: nn.Module, path: Path, arch: str | None, calls: Sequence[Inputs]) -> Row:
    """Return the row of the proof of a file of the model, run on those of the inputs that the model itself takes."""
    expected = [(inputs, outputs) for inputs in calls if (outputs := run_here(model, inputs))]
    if not expected:
        return Row("file", "skipped", "no input is known that the converted model takes")
    try:
        with quietly(), torch.no_grad():
            call = reader(path, arch)
            found = [compare(outputs, outputs_of(call, inputs)) for inputs, outputs in expected]
    except CannotRun as error:
        return Row("file", "skipped", str(error))
    except Exception as error:  # what was written wrongly can fail in any way at all
        return Row("file", "failed", f"what was written cannot be read back and run: {first_line(error)}")
    worst = max(found, key=lambda each: each.part)
    text = f"what was written, read back and run, differs from the converted model by {worst}"
    return Row.of("file", worst.ok, text)


def run_here(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return what the model in memory gives, numbered; nothing where it does not take the inputs."""
    with as_found(model), suppress(ArgumentError), seeded(0, model):
        return numbered(run(model, inputs).values())
    return {}


def outputs_of(call: Call, inputs: Inputs) -> dict[str, Tensor]:
    """Return what the file gives, numbered."""
    own = inputs.copied()
    # A program that was exported in training draws random numbers in every mode.
    with seeded(0, nn.Module()):
        return numbered(named_tensors(call(*own.args, **own.kwargs)).values())


def numbered(tensors: Any) -> dict[str, Tensor]:
    """Return the tensors by number: a program keeps their order, and not always their names."""
    return {str(number): tensor for number, tensor in enumerate(tensors)}


def calls_for(example: Tensor | ProgramSignature | None, dynamic_size: bool) -> list[Inputs]:
    """Return the inputs to run a file on: other batches than the example, and other sizes if those are open."""
    if example is None:
        return []
    if isinstance(example, ProgramSignature):
        return [example.inputs]
    _, channels, *sizes = example.shape
    shapes = [(1, channels, *sizes), (3, channels, *sizes)]
    if dynamic_size:
        shapes.append((1, channels, *(size + 13 for size in sizes)))
    return [Inputs((random_batch(shape, example),)) for shape in shapes]


def read_recipe(path: Path, arch: str | None) -> Call:
    """Read our own format."""
    return load(path, arch=arch)


def read_module(path: Path, arch: str | None) -> Call:
    """Read a pickled module, of classes that the model in memory is made of."""
    module: nn.Module = torch.load(path, weights_only=False)
    return module.eval()


def read_program(path: Path, arch: str | None) -> Call:
    """Read an archive of `torch.export`."""
    with path.open("rb") as file:
        called: Call = torch.export.load(file).module()
    return called


def read_torchscript(path: Path, arch: str | None) -> Call:
    """Read a TorchScript archive."""
    read: Any = torch.jit.load
    called: Call = read(str(path))
    return called


def read_onnx(path: Path, arch: str | None) -> Call:
    """Read an ONNX graph with onnxruntime."""
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError as error:
        raise CannotRun("onnxruntime, which runs ONNX files, is not installed") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error):
            raise CannotRun(f"onnxruntime cannot run it on this machine: {first_line(error)}") from error
        raise
    names = [given.name for given in session.get_inputs()]

    def call(*args: Any, **kwargs: Any) -> list[Tensor]:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, fed)]

    return call


def refuse_wrong(row: Row) -> None:
    """Refuse a file that failed its proof.

    Raises:
        FileError: the row says so.
    """
    if row.state == "failed":
        raise FileError(f"The file failed its proof: {row.text}; nothing was written, so name another --format.")
