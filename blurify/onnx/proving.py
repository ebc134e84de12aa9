"""The proofs of an ONNX file: onnxruntime runs the original file itself, the one-tap twin, and the result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from blurify.onnx.planning import with_one_tap
from blurify.onnx.reading import OnnxFile, flaw_of
from blurify.onnx.rewriting import carry_out
from blurify.onnx.running import Arrays, CannotRun, Given, Session, random_inputs
from blurify.onnx.scopes import graphs_in, scopes_of
from blurify.onnx.shapes import Shapes, infer
from blurify.planning.plan import Plan
from blurify.verifying.verdict import Row

# Relative to the largest output: what rounding does in single precision, and in half or of integers.
TOLERANCE, COARSE_TOLERANCE = 1e-4, 2e-2
COARSE_OPERATORS = frozenset({"QuantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"})
# Outputs of noise may be all but zero, and rounding is not.
FLOOR = 1e-5
# Rounding may turn a choice, such as that of the largest; so it is tried with other inputs.
SEEDS = 3
# No file is run whose maps have more values.
MOST_VALUES = 2**30


@dataclass(frozen=True)
class Proofs:
    """The proofs as rows; the error is None where onnxruntime does not run the file."""

    rows: tuple[Row, ...]
    identity_error: float | None = None
    tolerance: float = TOLERANCE

    @property
    def ok(self) -> bool:
        """Return whether all that were run hold."""
        return all(row.state != "failed" for row in self.rows)

    def __str__(self) -> str:
        """Return one line for each proof."""
        return "\n".join(map(str, self.rows))


@dataclass(frozen=True)
class Trial:
    """What a file is run on: its inputs, their sizes, and what is known of all values then."""

    given: list[Given]
    sizes: dict[str, tuple[int, ...]]
    shapes: Shapes
    # Why onnxruntime does not run the file, if so.
    failure: str = ""

    def inputs(self, seed: int) -> Arrays:
        """Return random inputs."""
        return random_inputs(self.given, self.sizes, seed)

    def check(self) -> None:
        """Refuse to run what has too many values.

        Raises:
            CannotRun: it has.
        """
        if self.failure:
            raise CannotRun(self.failure)
        values = (value.sizes for table in self.shapes.example.values() for value in table.values())
        if any(prod(sizes) > MOST_VALUES for sizes in values if sizes):
            raise CannotRun("some of its maps have more than 2**30 values")


def prove(source: OnnxFile, plan: Plan, result: Any, trial: Trial) -> Proofs:
    """Prove that a result is what the plan says.

    >>> prove(source, plan, result, trial).ok
    True
    """
    tolerance = tolerance_of(source.model)
    twin = source.copied()
    carry_out(twin, with_one_tap(plan), trial.shapes, source.folder)
    identity, error = identity_row(source, twin, trial, tolerance)
    sizes = sizes_row(source, plan, twin, result, trial)
    rows = (identity, sizes, kept_row(source.model, result), valid_row(source, result))
    return Proofs(rows, error, tolerance)


def tolerance_of(model: Any) -> float:
    """Return what rounding may do in this file."""
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    graphs = list(graphs_in(model.graph))
    coarse = any(node.op_type in COARSE_OPERATORS for graph in graphs for node in graph.node)
    coarse = coarse or any(tensor.data_type in half for graph in graphs for tensor in graph.initializer)
    return COARSE_TOLERANCE if coarse else TOLERANCE


def identity_row(source: OnnxFile, twin: Any, trial: Trial, tolerance: float) -> tuple[Row, float | None]:
    """Run the original file and its twin with filters of one tap, which are to give the same."""
    try:
        trial.check()
        original = Session.of(source.path, source.folder)
        expected = [original.run(trial.inputs(seed)) for seed in range(SEEDS)]
        del original
    except CannotRun as error:
        return Row("identity", "skipped", f"{error}; the plan was carried out after shape inference alone"), None
    try:
        session = Session.of(twin.SerializeToString(), source.folder)
        worst = min(
            (difference(outputs, session.run(trial.inputs(seed))) for seed, outputs in enumerate(expected)),
            default=np.inf,
        )
    except CannotRun as error:
        return Row("identity", "failed", f"the file runs, and with one-tap filters it does not: {error}"), np.inf
    text = f"with one-tap filters the outputs differ from the file's by {worst:.1e} (relative; {tolerance:.0e} allowed)"
    return Row.of("identity", worst <= tolerance, text), worst


def difference(expected: Iterable[Any], found: Iterable[Any]) -> float:
    """Return the largest difference between outputs, relative to the largest value of each."""
    pairs = list(zip(expected, found, strict=True))
    return max((_apart(one, other) for one, other in pairs), default=0.0)


def _apart(one: Any, other: Any) -> float:
    if isinstance(one, list):  # a sequence
        return difference(one, other) if len(one) == len(other) else np.inf
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return np.inf
    if one.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(one, other) else np.inf
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    if not np.isfinite(one[~same]).all() or not np.isfinite(other[~same]).all():
        return np.inf
    finite = np.abs(one[np.isfinite(one)])
    apart = np.abs(one[~same] - other[~same]).max()
    return float(apart / max(finite.max(initial=0.0), FLOOR))


def sizes_row(source: OnnxFile, plan: Plan, twin: Any, result: Any, trial: Trial) -> Row:
    """Compare the size of every site's map, blurred, with what it is with one tap.

    Not with what it was: of ceil mode, shape inference and onnxruntime do not think alike.
    """
    before, after = (infer(each, trial.sizes, source.folder) for each in (twin, result))
    scopes = {path: scope for scope in scopes_of(source.model) for path in scope.paths}
    wrong, known = [], 0
    for decision in plan.rewritten:
        scope = scopes[decision.site]
        name = landing_name(scope, decision.landing) or landing_name(scope, decision.site)
        sizes = [shapes.at_example(scope, name).sizes for shapes in (before, after)]
        known += None not in sizes
        wrong += (
            [f"{decision.site}: {sizes[0]} became {sizes[1]}"] if None not in sizes and sizes[0] != sizes[1] else []
        )
    text = f"{known - len(wrong)} of {len(plan.rewritten)} rewritten sites keep their output size"
    return Row.of("shapes", not wrong, "; ".join([text, *wrong[:3]]))


def landing_name(scope: Any, landing: str) -> str:
    """Return the value at a landing that is a node with one output."""
    at = scope.index.get(landing)
    return "" if at is None else scope.graph.node[at].output[0]


FIXED = ("opset_import", "metadata_props", "functions", "ir_version", "producer_name", "domain", "training_info")


def kept_row(model: Any, result: Any) -> Row:
    """Compare all that no plan touches: weights, inputs and outputs, metadata, opsets, functions."""
    problems = [name for name in FIXED if getattr(model, name) != getattr(result, name)]
    count = 0
    for old, new in zip(graphs_in(model.graph), graphs_in(result.graph), strict=True):
        kept = {tensor.name: tensor for tensor in new.initializer}
        problems += [tensor.name for tensor in old.initializer if kept.get(tensor.name) != tensor]
        problems += [name for name in ("input", "output") if list(getattr(old, name)) != list(getattr(new, name))]
        count += len(old.initializer)
    text = f"{count} weights compared" + (f"; changed: {', '.join(problems[:5])}" if problems else ", all equal")
    return Row.of("weights", not problems, f"{text}; names, metadata and opset are the file's")


def valid_row(source: OnnxFile, result: Any) -> Row:
    """Let `onnx.checker` look at the result."""
    if source.flaw:
        return Row("graph", "skipped", f"onnx.checker refuses the file itself: {source.flaw}")
    flaw = flaw_of(result)
    return Row.of("graph", not flaw, (flaw and f"onnx.checker refuses the result: {flaw}") or "onnx.checker passes it")


def file_row(path: Path, source: OnnxFile, trial: Trial) -> Row:
    """Run what was written, with onnxruntime's optimizations, next to the original."""
    try:
        trial.check()
        expected = Session.of(source.path, source.folder).run(trial.inputs(0))
    except CannotRun as error:
        return Row("file", "skipped", str(error))
    try:
        found = Session.of(path, path.parent, optimize=True).run(trial.inputs(0))
    except CannotRun as error:
        return Row("file", "failed", f"the original runs, and what was written does not: {error}")
    fits = [np.shape(one) == np.shape(other) for one, other in zip(expected, found, strict=True)]
    wrong = [number for number, fit in enumerate(fits) if not fit and _is_sized(source, number)]
    return Row.of("file", not wrong, "what was written, read back and run, gives outputs of the same sizes")


def _is_sized(source: OnnxFile, number: int) -> bool:
    """Return whether the file says the sizes of an output."""
    dims = source.model.graph.output[number].type.tensor_type.shape.dim
    return bool(dims) and all(dim.dim_value > 0 for dim in list(dims)[1:])
