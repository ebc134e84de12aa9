"""What is measured of one model. Each stage returns plain values; whatever it raises is the model's failure."""

from __future__ import annotations

import re
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.zoo import models
from blurify.api import antialias, make_plan
from blurify.errors import NoEffectWarning
from blurify.graph.module import TracedModule
from blurify.graph.paths import node_paths
from blurify.planning.decision import Decision
from blurify.planning.plan import Plan
from blurify.planning.spec import Spec
from blurify.rewriting.losses import apply_traced
from blurify.tracing import trace
from blurify.tracing.differing import difference
from blurify.tracing.inputs import Inputs
from blurify.tracing.shapes import output_shapes
from blurify.verifying.shapes import subsampling_paths
from blurify.verifying.twins import one_tap
from blurify.verifying.weights import compare_weights
from blurify.zoo.architectures import Shape, inputs_of, parameter_count
from blurify.zoo.randomize_weights import randomize

Outcome = dict[str, Any]
# The largest network whose weights are given values.
LARGEST = 100_000_000
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}
LEAST_EFFECT = 1e-6


class Subject:
    """One architecture on the meta device, and what several stages need of it.

    Args:
        name: `library:architecture`.
        shapes: what it runs on, where that is known; else it is tried.
        sizes: builder arguments that make a smaller network of the architecture.
        options: what is asked for when everything is rewritten that can be.
    """

    def __init__(
        self,
        name: str,
        shapes: Sequence[Shape] = (),
        sizes: Mapping[str, Any] | None = None,
        options: Mapping[str, bool] | None = None,
    ) -> None:
        self.name, self.sizes = name, dict(sizes or {})
        self.options = {"stem": True, "patch_embed": True} if options is None else dict(options)
        if shapes:
            self.shapes = list(shapes)

    def make(self, device: str) -> nn.Module:
        """Build the model."""
        return models.make(self.name, device, **self.sizes)

    @cached_property
    def model(self) -> nn.Module:
        """The model, without storage."""
        return self.make("meta")

    @cached_property
    def traced(self) -> TracedModule:
        """Its graphs."""
        return trace(self.model, models.given_inputs(self.name, self.model))

    @cached_property
    def converted(self) -> TracedModule:
        """The model with everything rewritten that can be, stems included."""
        return apply_traced(self.full_plan, self.traced.shallow_copy())

    @cached_property
    def full_plan(self) -> Plan:
        """What the pass decides where everything is asked for."""
        return self.plan(**self.options)

    @cached_property
    def shapes(self) -> list[Shape]:
        """What it runs on."""
        found = models.workable_shapes(self.name, self.model)
        if not found:
            raise ValueError("the model runs at none of the sizes tried")
        return found

    def plan(self, **options: bool) -> Plan:
        """What the pass decides."""
        given = models.given_inputs(self.name, self.model)
        return make_plan(self.model, self.traced, Spec.of(**options), given)


def plan(subject: Subject) -> Outcome:
    """Trace and decide: how long, by which front-end, and what of each site."""
    model = subject.model
    begin = time.perf_counter()
    traced = subject.traced
    traced_at = time.perf_counter()
    made = subject.plan()
    ended = time.perf_counter()
    return {
        "ok": True,
        "family": models.family(subject.name),
        "parameters": parameter_count(model),
        "front_end": traced.meta["front_end"],
        "refusals": [without_home(refusal) for refusal in traced.meta["refusals"]],
        "eval_only": bool(traced.meta.get("eval_only")),
        "nodes": len(traced.eval_graph.nodes),
        "trace_seconds": round(traced_at - begin, 3),
        "decide_seconds": round(ended - traced_at, 3),
        "sites": dict(sorted(Counter(_label(d) for d in made.decisions).items())),
    }


def without_home(text: str) -> str:
    """The text with paths that begin at the library, not where it is installed."""
    return re.sub(r"[^ ]*site-packages/", "", text)


def _label(decision: Any) -> str:
    return " ".join(str(word) for word in (decision.kind, decision.action, decision.reason) if word)


def shapes(subject: Subject) -> Outcome:
    """Whether every node outside the stretches between site and landing keeps its output size."""
    made = subject.full_plan
    if not made.rewritten:
        return {"ok": True, "skipped": "nothing is rewritten"}
    converted = subject.converted
    problems: list[str] = []
    compared = 0
    for shape in subject.shapes:
        inputs = inputs_of(subject.name, subject.model, shape)
        before, after = output_shapes(subject.traced, inputs), output_shapes(converted, inputs)
        for path, twin in twins(subject.traced, converted, made.rewritten).items():
            if path in before and twin in after:
                compared += 1
                if before[path] != after[twin]:
                    problems.append(f"{path}: {before[path]} became {after[twin]} at {shape}")
    tried = ["x".join(map(str, shape)) for shape in subject.shapes]
    return {"ok": not problems and compared > 0, "sizes": tried, "compared": compared} | told(problems)


def twins(original: TracedModule, converted: TracedModule, rewritten: tuple[Decision, ...]) -> dict[str, str]:
    """For each node of the original by path, the node of the converted model that has its output's size."""
    nodes = node_paths(original.eval_graph)
    subsampled = subsampling_paths(converted.eval_graph, Plan(rewritten))
    found = {path: path for path in nodes}
    order = {path: index for index, path in enumerate(nodes)}
    for decision in rewritten:
        if decision.landing not in order or order[decision.landing] < order.get(decision.site, 0):
            continue
        waiting = [nodes[decision.site]] if decision.site in nodes else []
        while waiting:
            node = waiting.pop()
            if order[node.meta["path"]] < order[decision.landing] and found.pop(node.meta["path"], None):
                waiting.extend(node.users)
        if decision.site in nodes:
            found[decision.landing] = subsampled[decision.site]
    return found


def told(problems: list[str]) -> Outcome:
    """The first problems in words, if any."""
    return {"error": f"{len(problems)} problems: {'; '.join(problems[:3])}"} if problems else {}


def identity(subject: Subject) -> Outcome:
    """Whether with one-tap filters the outputs are the original's, in real arithmetic."""
    if not subject.full_plan.rewritten:
        return {"ok": True, "skipped": "nothing is rewritten"}
    if parameter_count(subject.model) >= LARGEST:
        return {"ok": True, "skipped": "100 M parameters or more"}
    sizes = subject.shapes
    with torch.no_grad():
        model = subject.make("cpu")
        randomize(model, inputs_of(subject.name, model, sizes[0], batch=4))
        outcome = _identity(subject, model)
        if not outcome["ok"]:
            outcome |= {"float32": outcome["errors"]} | _identity(subject, model.double())
    return outcome


def _identity(subject: Subject, model: nn.Module) -> Outcome:
    name, sizes = subject.name, subject.shapes
    given = inputs_of(name, model, sizes[0])
    found = state(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        options = {"inplace": True, "example_inputs": given.args, **subject.options}
        converted, kept = (antialias(model, form=form, **options).eval() for form in ("graph", "auto"))
    touched = sorted(key for key, value in state(model).items() if not is_same(found[key], value))
    made = converted.meta["blurify"]
    twin = one_tap(converted, made).eval()
    pairs = [outputs(m, inputs_of(name, model, shape)) for shape in sizes for m in (model, twin)]
    expected, actual = pairs[::2], pairs[1::2]
    errors = [relative_error(e, a) for e, a in zip(expected, actual, strict=True)]
    dtype = expected[0][0].dtype
    telling = all(_is_telling(tensor) for e in expected for tensor in e[:1])
    form = relative_error(outputs(converted, given), outputs(kept, given))
    effect = relative_error(expected[0], outputs(converted, inputs_of(name, model, sizes[0])))
    statistics = {"statistics": sum(len(d.statistics) for d in made.rewritten)}
    return {
        "ok": max(errors) <= TOLERANCES[dtype]
        and telling
        and effect > LEAST_EFFECT
        and not touched
        and form <= TOLERANCES[dtype],
        "dtype": str(dtype).removeprefix("torch."),
        "errors": [float(f"{error:.2e}") for error in errors],
        "sizes": ["x".join(map(str, shape)) for shape in sizes],
        # What the blurs change, without which the identity would prove nothing.
        "effect": float(f"{effect:.2e}"),
        "form": kept.meta["blurify_form"],
        "form_error": float(f"{form:.2e}"),
        "optimized": len(converted.meta["optimized"]),
        **(statistics if statistics["statistics"] else {}),
        **({} if telling else {"error": "the original's outputs are not finite, or all alike"}),
        **({"error": f"converting wrote to the model's own {touched[0]}"} if touched else {}),
    }


State = dict[str, tuple[int, Tensor]]


def state(model: nn.Module) -> State:
    """Every parameter and buffer, with how often it was written to."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    return {name: (tensor._version, tensor.detach().clone()) for name, tensor in tensors}


def is_same(one: tuple[int, Tensor], other: tuple[int, Tensor]) -> bool:
    """Whether nothing was written, not even the same value."""
    return one[0] == other[0] and torch.equal(one[1].nan_to_num(), other[1].nan_to_num())


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Every tensor that the model returns."""
    own = inputs.copied()
    return [leaf for leaf in tree_leaves(model(*own.args, **own.kwargs)) if isinstance(leaf, Tensor)]


def relative_error(expected: list[Tensor], actual: list[Tensor]) -> float:
    """The largest difference of any pair, relative to its first's largest value."""
    return max(difference(e, a) for e, a in zip(expected, actual, strict=True))


def _is_telling(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all()) and float(tensor.double().std()) > 0


def names(subject: Subject) -> Outcome:
    """Whether names, order and values survive, and load strictly both ways."""
    model = subject.model
    converted = own_converted(subject)
    before, after = model.state_dict(), converted.state_dict()
    converted.load_state_dict(before, strict=True)
    model.load_state_dict(after, strict=True)
    problems = list(compare_weights(model, converted).problems)
    if list(before) != list(after):
        problems.append("the state_dict has another order")
    if [n for n, _ in model.named_parameters()] != [n for n, _ in converted.named_parameters()]:
        problems.append("the parameters have another order")
    return {"ok": not problems, "compared": len(before)} | told(problems)


def own_converted(subject: Subject) -> TracedModule:
    """The converted model over parameters of its own."""
    return apply_traced(subject.full_plan, subject.traced.shallow_copy())


STAGES: dict[str, Callable[[Subject], Outcome]] = {
    "plan": plan,
    "shapes": shapes,
    "identity": identity,
    "names": names,
}


def run_stages(subject: Subject, stages: tuple[str, ...]) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each stage, in order."""
    torch.set_num_threads(1)
    for stage in stages:
        begin = time.perf_counter()
        try:
            outcome = STAGES[stage](subject)
        except Exception as error:
            outcome = {"ok": False, **described(error)}
        yield stage, outcome | {"seconds": round(time.perf_counter() - begin, 2)}


def outcomes_of(name: str, stages: tuple[str, ...]) -> dict[str, Outcome]:
    """Return the outcome of each stage of an architecture."""
    return dict(run_stages(Subject(name), stages))


def described(error: Exception) -> Outcome:
    """What an exception says, and the last lines of this program and of the libraries that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in frames[-6:]]
    lines = str(error).strip().splitlines()
    return {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:600], "where": where}
