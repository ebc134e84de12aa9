"""From an ONNX file to an ONNX file whose downsampling is antialiased."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blurify.errors import ArgumentError, BlurifyError, one_line
from blurify.onnx.planning import make_plan
from blurify.onnx.proving import Proofs, Trial, prove
from blurify.onnx.reading import OnnxFile, damaged, read_file
from blurify.onnx.rewriting import carry_out
from blurify.onnx.running import CannotRun, Given, Session, examples_of, inputs_of, random_inputs
from blurify.onnx.scopes import scopes_of
from blurify.onnx.shapes import infer
from blurify.planning.plan import Plan
from blurify.planning.spec import Spec

Sizes = tuple[int, ...]
# So long are sizes tried that a file may take.
SECONDS = 30
# Larger files are not run, so that they are converted in less memory than they have.
MOST_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX file that was read, and what it can be run on."""

    file: OnnxFile
    trial: Trial

    def plan(self, spec: Spec) -> Plan:
        """Decide for every site."""
        with understood(self.file.path):
            return make_plan(self.file.model, spec, self.trial.shapes, self.file.folder)

    def converted(self, plan: Plan) -> Any:
        """Return the message of the converted graph."""
        result = self.file.copied()
        with understood(self.file.path):
            carry_out(result, plan.rewritten, self.trial.shapes, self.file.folder)
        return result

    def prove(self, plan: Plan, result: Any) -> Proofs:
        """Prove that a converted graph is what the plan says."""
        with understood(self.file.path):
            return prove(self.file, plan, result, self.trial)


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Refuse a file whose graph contradicts itself, which may fail in any way at all.

    Raises:
        FileError: it does.
    """
    try:
        yield
    except BlurifyError:
        raise
    except Exception as error:
        raise damaged(path, one_line(error, 300)) from error


def open_graph(path: Path, asked: Mapping[str, Sizes] | None = None, size: Sizes | None = None) -> Graph:
    """Read an ONNX file and find inputs that it takes.

    `asked` gives sizes of inputs by name, and `size` the channels and sizes of an image.

    >>> open_graph(Path("net.onnx")).plan(Spec.of()).rewritten
    (...)

    Raises:
        FileError: the file cannot be read.
        ArgumentError: an input is asked for that the graph does not have.
    """
    file = read_file(path)
    with understood(path):
        given = inputs_of(scopes_of(file.model)[0])
    asked = dict(asked or {})
    for name, sizes in asked.items():
        check_asked(path, name, sizes, given)
    with understood(path):
        valid, failure = _valid(file, given, asked, size)
        return Graph(file, Trial(given, valid, infer(file.model, valid, file.folder), failure))


def check_asked(path: Path, name: str, sizes: Sizes, given: list[Given]) -> None:
    """Refuse sizes of an input that the graph does not have, or has otherwise.

    Raises:
        ArgumentError: it is so.
    """
    one = next((each for each in given if each.name == name), None)
    if one is None:
        names = ", ".join(each.name for each in given)
        raise ArgumentError(f"{path} has no input {name!r}; its inputs are {names}.")
    fixed = [isinstance(each, int) and each != size for each, size in zip(one.sizes, sizes, strict=False)]
    if one.sizes and (len(one.sizes) != len(sizes) or any(fixed)):
        told = "x".join(str(each or "?") for each in one.sizes)
        raise ArgumentError(f"{path} takes {told} as {name!r}, not {'x'.join(map(str, sizes))}.")


def _valid(
    file: OnnxFile, given: list[Given], asked: Mapping[str, Sizes], size: Sizes | None
) -> tuple[dict[str, Sizes], str]:
    """Return sizes of inputs that onnxruntime runs the file on; the first that are likely, and why, where none are."""
    tried = list(examples_of(given, asked, size))
    if file.size > MOST_BYTES:
        held = f"{file.size / 2**30:.1f} GiB"
        return tried[0], f"its weights have {held}, and those of more than 1 are not loaded to run it"
    if len(tried) == 1 and not file.flaw:
        return tried[0], ""
    try:
        session = Session.of(file.path, file.folder)
    except CannotRun as error:
        if file.flaw:
            raise damaged(file.path, file.flaw) from error
        return tried[0], str(error)
    failure, start = "", time.monotonic()
    for sizes in tried:
        if time.monotonic() - start > SECONDS:
            break
        try:
            session.run(random_inputs(given, sizes))
            return sizes, ""
        except CannotRun as error:
            failure = failure or f"{error}; name sizes that it takes with --input NAME=SHAPE"
    return tried[0], failure
