"""Run all proofs of a converted model, on copies of both models.

*Identity*: with every filter replaced by one tap, the converted model computes what the original computes, since
subsampling commutes with all that it was moved across. The other proofs say in their own files what they show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from blurify.errors import ArgumentError, first_line
from blurify.graph.module import TracedModule
from blurify.layers import Blur
from blurify.planning.plan import Plan, plan_of
from blurify.rewriting.parts import as_root, to_root
from blurify.tracing.fed import Fed
from blurify.tracing.inputs import Inputs, as_inputs, example_for
from blurify.tracing.modes import as_found
from blurify.verifying.dtypes import dtypes
from blurify.verifying.outputs import Difference, Named, compare, run
from blurify.verifying.reload import reload
from blurify.verifying.shapes import gives, seen_shapes, site_shapes, watching
from blurify.verifying.training import evaluate_only, train
from blurify.verifying.twins import (
    one_tap,
    own_model,
    subsample_at_sites,
    with_one_tap_layers,
    with_one_tap_nodes,
    with_original_strides,
    with_plan,
)
from blurify.verifying.verdict import FilterUse, Row, SiteShape, Verdict
from blurify.verifying.weights import compare_weights

# Both models are copied, and a training pass holds maps and gradients beside.
MOST_BYTES = 2 * 2**30
DYNAMIC = ("reload", "train", "gradients")


def verify(
    original: nn.Module,
    converted: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> Verdict:
    """Prove that `converted` is `original` with blurs in it.

    >>> import blurify, torchvision
    >>> model = torchvision.models.resnet18()
    >>> blurify.verify(model, blurify.antialias(model)).ok
    True

    Runs copies of both models on `example_inputs` (a tensor or a tuple of arguments) and `example_kwargs`, or on a
    seeded random batch of the model's own input size: in evaluation, with other weights, and in training with a
    backward pass. Both models are left as found.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
        ArgumentError: the original does not run on the input.
    """
    plan = plan_of(converted)
    if plan is None:
        plan = with_plan(converted)[1]
    given = as_inputs(example_inputs, example_kwargs)
    inputs = example_for(original) if given is None else given
    if plan.parts:
        return verify_parts(original, converted, plan, inputs)
    found = examined(original, converted, plan, inputs, given is not None)
    trained = any(row.name == "train" and row.state == "ok" for row in found.rows)
    shapes = found.shapes
    if shapes is None:
        graph = converted if isinstance(converted, TracedModule) else applied(plan, original, inputs)
        shapes = site_shapes(original, graph, plan, inputs, trained)
    return Verdict(
        identity_error=found.identity.error,
        tolerance=found.identity.tolerance,
        shapes=shapes,
        weights=compare_weights(original, converted),
        statistics=tuple(norm for decision in plan.rewritten for norm in decision.statistics),
        modes=("eval", "train") if trained else ("eval",),
        rows=found.rows,
        filters=filters_used(converted),
    )


def verify_parts(original: nn.Module, converted: nn.Module, plan: Plan, inputs: Inputs) -> Verdict:
    """Prove of each converted part by itself what it is, on what the original feeds it."""
    fed = Fed(original, inputs)
    paths = [part.path for part in plan.parts if not part.reason]
    if not fed.calls.keys() >= set(paths):
        why = f": {first_line(fed.error)}" if fed.error else ""
        raise ArgumentError(
            f"{type(original).__name__} does not reach all converted parts on an input of size {inputs.sizes()}{why}; "
            "pass example_inputs (--input-size on the command line) that do."
        )
    verdicts = {path: verify_part(original, converted, path, fed.calls[path]) for path in paths}
    worst = max(verdicts.values(), key=lambda verdict: verdict.identity_error / verdict.tolerance)
    return replace(
        worst,
        shapes=tuple(
            replace(shape, site=f"{path}.{shape.site}") for path, each in verdicts.items() for shape in each.shapes
        ),
        weights=compare_weights(original, converted),
        statistics=tuple(name for decision in plan.rewritten for name in decision.statistics),
        modes=tuple(mode for mode in worst.modes if all(mode in each.modes for each in verdicts.values())),
        rows=tuple(worst_row(verdicts, number) for number in range(len(worst.rows))),
        filters=filters_used(converted),
    )


def filters_used(converted: nn.Module) -> tuple[FilterUse, ...]:
    """Return the filters of a model's blurs, the most frequent first."""
    blurs = [module for module in converted.modules() if isinstance(module, Blur)]
    along = [set(zip(blur.filters, blur.rate, strict=True)) for blur in blurs]
    used = Counter((each, max(rate, 2)) for pairs in along for each, rate in pairs if not each.is_one_tap)
    return tuple(FilterUse(str(f), rate, count, f.quality(rate)) for (f, rate), count in used.most_common())


def verify_part(original: nn.Module, converted: nn.Module, path: str, call: Inputs) -> Verdict:
    """Prove one part."""
    own = call.copied()
    root, name = as_root(original.get_submodule(path))
    return verify(root, to_root(converted.get_submodule(path), name), own.args, own.kwargs)


def worst_row(verdicts: Mapping[str, Verdict], number: int) -> Row:
    """Return the row of that number of the part in which that proof went worst."""
    rows = [(path, verdict.rows[number]) for path, verdict in verdicts.items()]
    path, row = max(rows, key=lambda each: ("ok", "skipped", "failed").index(each[1].state))
    return row if len(rows) == 1 else replace(row, text=f"{row.text} (in {path}, of {len(rows)} parts)")


@dataclass(frozen=True)
class Examined:
    """Hold the result of the proofs that run both models."""

    identity: Difference
    rows: tuple[Row, ...]
    shapes: tuple[SiteShape, ...] | None

    @property
    def ok(self) -> bool:
        """Return whether nothing failed."""
        return self.identity.ok and all(row.state != "failed" for row in self.rows)


def examined(original: nn.Module, converted: nn.Module, plan: Plan, inputs: Inputs, given: bool) -> Examined:
    """Run the proofs, and once more in float64 where something differs that rounding may explain."""
    found = examined_once(original, converted, plan, inputs, given)
    # In float64 autocast does nothing, so that its loss would not show.
    lost = any("autocast" in fact for fact in vars(converted).get("meta", {}).get("left_out", ()))
    if found.ok or lost or not any(p.dtype is torch.float32 for p in original.parameters()):
        return found
    exact = tree_map_only(torch.Tensor, widened, (inputs.args, inputs.kwargs))
    try:
        mine, theirs = own_model(original).double(), own_model(converted).double()
        again = examined_once(mine, theirs, plan, Inputs(*exact), given)
    except Exception:  # not every model runs in float64
        return found
    # Of dtypes the first run tells.
    rows = [first if first.name == "dtypes" else row for first, row in zip(found.rows, again.rows, strict=True)]
    return Examined(again.identity, tuple(rows), found.shapes)


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, if it is of float32."""
    return tensor.double() if tensor.dtype is torch.float32 else tensor


def examined_once(original: nn.Module, converted: nn.Module, plan: Plan, inputs: Inputs, given: bool) -> Examined:
    """Run the proofs on copies, which each proof leaves to the next, or the cheap ones on the models themselves."""
    why = too_dear(original)
    try:
        pair = None if why else (own_model(original), own_model(converted))
    except Exception as error:
        why, pair = f"the model cannot be copied: {first_line(error)}", None
    subsampling = gives(converted, plan)
    mine, theirs = pair or (original, converted)
    with as_found(original) if pair is None else nullcontext(), as_found(converted) if pair is None else nullcontext():
        with watching(mine, subsampling) as before, watching(theirs, subsampling.values()) as after:
            expected, actual = run(mine, inputs, given), run(theirs, inputs)
        shapes, same = seen_shapes(plan, subsampling, before, after), dtypes(expected, actual)
        if pair is None:
            rows = [Row(name, "skipped", why) for name in DYNAMIC]
            return Examined(identity_of(original, converted, plan, inputs, expected, actual), (*rows, same), shapes)
    twin = with_one_tap_nodes(theirs, plan) if isinstance(theirs, TracedModule) else with_one_tap_layers(theirs, plan)
    identity = compare(expected, run(twin, inputs))
    rows = [reload(mine, twin, original, inputs)]
    subsample_as(twin, mine)
    recorded = any(isinstance(module, TracedModule) for module in twin.modules())
    only = eval_only(converted)
    trained = evaluate_only(mine, twin, inputs) if only else train(mine, twin, inputs, recorded=recorded)
    return Examined(identity, (*rows, *trained, same), shapes)


def eval_only(converted: nn.Module) -> bool:
    """Return whether the model could be recorded after `.eval()` alone, which its user was told."""
    return isinstance(converted, TracedModule) and bool(converted.meta.get("eval_only"))


def identity_of(
    original: nn.Module, converted: nn.Module, plan: Plan, inputs: Inputs, expected: Named, actual: Named
) -> Difference:
    """Compare without copies: a model of its own class computes what its graph does, which has a one-tap twin."""
    if isinstance(converted, TracedModule):
        return compare(expected, run(one_tap(converted, plan), inputs))
    graph = applied(plan, original, inputs)
    differences = compare(run(graph, inputs), actual), compare(expected, run(one_tap(graph, plan), inputs))
    return max(differences, key=lambda each: each.part)


def subsample_as(twin: nn.Module, original: nn.Module) -> None:
    """Let a one-tap twin subsample where the original does: in training a batch-norm must see the same."""
    graphs = [module for module in twin.modules() if isinstance(module, TracedModule)]
    for graph in graphs:
        subsample_at_sites(graph)
    if twin not in graphs:
        with_original_strides(twin, original)


def too_dear(model: nn.Module) -> str:
    """Say why no copies of the model are trained, or nothing."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        return "the weights are on the meta device, without values"
    size = sum(tensor.nbytes for tensor in tensors)
    return f"copies of {size / 2**30:.1f} GiB of weights would not be cheap" if size > MOST_BYTES else ""


def applied(plan: Plan, original: nn.Module, inputs: Inputs) -> TracedModule:
    """Return the graph form of what the plan says, over the original's own parameters."""
    return plan.apply(
        original,
        inplace=True,
        form="graph",
        optimize=False,
        example_inputs=inputs.args,
        example_kwargs=inputs.kwargs,
    )
