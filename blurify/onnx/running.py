"""Run an ONNX file with onnxruntime, on inputs made from what its graph says that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from blurify.errors import BlurifyError, first_line
from blurify.onnx.scopes import Scope
from blurify.onnx.shapes import value_of

Arrays = dict[str, "np.ndarray[Any, Any]"]
NUMPY_TYPES: dict[int, Any] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}
# Sizes that are tried for open axes, by the rank of the input: images, signals, sequences of features.
TRIED = {
    4: (224, 64, 256, 320, 512, 640, 48, 32, 800, 128, 96, 299),
    5: (32, 64, 16, 112),
    3: (128, 64, 100, 256, 16000, 80, 400, 32, 3000),
    2: (16000, 512, 128, 64, 32000, 256, 32, 8),
}
OTHERS = (64, 16, 8, 1)
BATCHES = (1, 2, 4)
MOST_TRIED = max(map(len, TRIED.values()))
SAMPLE_RATE = 16000


class CannotRun(Exception):
    """onnxruntime is not installed, or does not run the file."""


@dataclass(frozen=True)
class Given:
    """One input of a graph: its type and sizes, None or the name of a size where it is open."""

    name: str
    kind: int
    sizes: tuple[int | str | None, ...]


def inputs_of(scope: Scope) -> list[Given]:
    """Return what a graph takes."""
    return [_given(info) for info in scope.inputs]


def _given(info: Any) -> Given:
    dims = info.type.tensor_type.shape.dim
    known = value_of(info).dims or ()
    named = (size or dim.dim_param or None for size, dim in zip(known, dims, strict=True))
    return Given(info.name, info.type.tensor_type.elem_type, tuple(named))


def examples_of(
    given: list[Given], asked: Mapping[str, tuple[int, ...]], size: tuple[int, ...] | None
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield sizes of all inputs that may be valid, the likeliest first: what is asked for, else what is tried.

    `size` is that of one image: channels and sizes. Axes of one name are as long as each other. What comes with the
    first input is often a state, whose only open axis is that of the batch.
    """
    known = {one.name: asked.get(one.name) or _asked(one, size) for one in given}
    seen = []
    for batch, follows, attempt in product(BATCHES, (False, True), range(MOST_TRIED)):
        named: dict[str, int] = {}
        sizes = {
            one.name: known[one.name] or _tried(one, batch, attempt if follows or number == 0 else None, named)
            for number, one in enumerate(given)
        }
        if sizes not in seen:
            seen.append(sizes)
            yield sizes


def _asked(one: Given, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if size is None or len(one.sizes) != len(size) + 1:
        return None
    first = one.sizes[0]
    return (first if isinstance(first, int) else 1, *size)


def _tried(one: Given, batch: int, attempt: int | None, named: dict[str, int]) -> tuple[int, ...]:
    """Return sizes of an input; without an attempt all open axes are the batch's."""
    tried = TRIED.get(len(one.sizes), OTHERS)
    longer = batch if attempt is None else tried[min(attempt, len(tried) - 1)]
    found = []
    for axis, each in enumerate(one.sizes):
        usual = batch if axis == 0 else 3 if axis == 1 and len(one.sizes) == 4 else longer
        if isinstance(each, str):
            usual = named.setdefault(each, usual)
        found.append(each if isinstance(each, int) else usual)
    return tuple(found)


def random_inputs(given: list[Given], sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    """Return random numbers for floats and small ones for integers.

    Raises:
        CannotRun: an input is of a type that cannot be made up, such as text.
    """
    rng = np.random.default_rng(seed)
    return {one.name: _random(one, sizes[one.name], rng) for one in given}


def _random(one: Given, sizes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    kind = NUMPY_TYPES.get(one.kind)
    if kind is None:
        raise CannotRun(f"its input {one.name!r} is of a type that cannot be made up")
    if np.issubdtype(kind, np.floating):
        return np.asarray(rng.random(sizes), kind)
    if kind is np.bool_:
        return np.ones(sizes, kind)
    if kind is np.uint8:
        return rng.integers(0, 256, sizes, kind)
    # The one number that models of sound take is how many samples a second has.
    return np.full(sizes, 1 if sizes else SAMPLE_RATE, kind)


@dataclass(frozen=True)
class Session:
    """A graph that runs."""

    session: Any

    @classmethod
    def of(cls, model: bytes | Path, folder: Path, optimize: bool = False) -> Session:
        """Load a graph whose further files lie in a folder.

        Raises:
            CannotRun: onnxruntime is not there, or does not take the graph.
        """
        try:
            onnxruntime: Any = import_module("onnxruntime")
        except ImportError as error:
            raise CannotRun("onnxruntime, which runs ONNX files, is not installed") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        # Weights in other files are mapped, and neither copied nor laid out for speed.
        options.enable_cpu_mem_arena = optimize
        options.add_session_config_entry("session.disable_prepacking", "0" if optimize else "1")
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_BASIC if optimize else level.ORT_DISABLE_ALL
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
        content: Any = str(model) if isinstance(model, Path) else model
        try:
            # It prints what it says in its errors.
            with redirect_stdout(StringIO()):
                return cls(onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]))
        except Exception as error:  # onnxruntime has many kinds
            raise CannotRun(f"onnxruntime does not load it: {fact_of(error)}") from error

    def run(self, inputs: Arrays) -> list[Any]:
        """Return the outputs.

        Raises:
            CannotRun: onnxruntime fails.
        """
        try:
            return list(self.session.run(None, inputs))
        except Exception as error:
            raise CannotRun(f"onnxruntime does not run it: {fact_of(error)}") from error


def fact_of(error: BaseException) -> str:
    """Return what an engine says in one line."""
    return first_line(error).removeprefix("[ONNXRuntimeError] : ")[:200]


def require_onnx() -> None:
    """Refuse, before any slow work, where no ONNX can be read.

    Raises:
        BlurifyError: onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise BlurifyError(
            f"reading ONNX needs {error.name}, which is not installed; get it with: pip install 'blurify[onnx]'"
        ) from error
