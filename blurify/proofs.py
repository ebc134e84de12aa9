"""The proofs that a converted model is the original with blurs in it, and nothing else.

*Identity*: with every filter replaced by one tap, the converted model computes what the original computes, since
subsampling commutes with all that it was moved across. *Shapes*: every site's output has the original's size.
*Weights*: every name, value, dtype, device, `requires_grad` and tie is the original's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.graph_module import TracedModule
from blurify.layers import Blur
from blurify.parts import as_root
from blurify.planning import Plan, plan_of
from blurify.rewrite import insert_after
from blurify.rules import set_module
from blurify.sites import Kind
from blurify.tracing import trace
from blurify.tracing.fed import Fed
from blurify.tracing.inputs import Inputs, as_inputs, example_for
from blurify.tracing.modes import evaluating
from blurify.tracing.paths import function_name, node_paths
from blurify.tracing.shapes import output_shapes
from blurify.verdict import SiteShape, Verdict, Weights

# What rounding alone can do to a deep network, relative to its largest output.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


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

    Runs both models once each, on `example_inputs` (a tensor or a tuple of arguments) or on a seeded random batch of
    the model's own input size. Both models are left as found.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
        ArgumentError: the original does not run on the input.
    """
    kept = None if isinstance(converted, fx.GraphModule) else plan_of(converted)
    if kept is not None and kept.parts:
        return verify_parts(original, converted, kept, as_inputs(example_inputs, example_kwargs))
    if kept is not None:
        return verify_kept(original, converted, kept, as_inputs(example_inputs, example_kwargs))
    converted, plan = with_plan(converted)
    given = as_inputs(example_inputs, example_kwargs)
    inputs = example_for(original) if given is None else given
    expected = _run(original, inputs, given is not None)
    twin = one_tap(converted, plan)
    errors = {"eval": relative_error(expected, _run(twin, inputs, True))}
    in_training = outputs_in_training(original, converted, inputs)
    if in_training is not None:
        errors["train"] = relative_error(in_training, _run(twin, inputs, True, converted.leaf_paths()))
    dtype = next((t.dtype for t in expected if t.is_floating_point()), torch.float32)
    return Verdict(
        identity_error=max(errors.values()),
        tolerance=TOLERANCES.get(dtype, 1e-4),
        shapes=site_shapes(original, converted, plan, inputs, "train" in errors),
        weights=compare_weights(original, converted),
        statistics=tuple(norm for decision in plan.rewritten for norm in decision.statistics),
        modes=tuple(errors),
    )


def with_plan(converted: nn.Module) -> tuple[TracedModule, Plan]:
    """The graph that `blurify.antialias` returned, and its plan; anything else is refused."""
    plan = plan_of(converted)
    if not isinstance(converted, TracedModule) or plan is None:
        raise ArgumentTypeError(
            f"converted must be what blurify.antialias returned, with its plan; got a {type(converted).__name__}."
        )
    return converted, plan


def verify_parts(original: nn.Module, converted: nn.Module, plan: Plan, given: Inputs | None) -> Verdict:
    """Prove of each converted part by itself what it is, on what the original feeds it."""
    inputs = example_for(original) if given is None else given
    fed = Fed(original, inputs)
    paths = [part.path for part in plan.parts if not part.reason]
    if not fed.calls.keys() >= set(paths):
        fact = f": {str(fed.error).splitlines()[0]}" if fed.error else ""
        raise ArgumentError(
            f"{type(original).__name__} does not reach all converted parts on an input of size {inputs.sizes()}{fact}; "
            "pass example_inputs (--input-size on the command line) that do."
        )
    verdicts = {path: _verify_part(original, converted, path, fed.calls[path]) for path in paths}
    worst = max(verdicts.values(), key=lambda verdict: verdict.identity_error / verdict.tolerance)
    return replace(
        worst,
        shapes=tuple(
            replace(shape, site=f"{path}.{shape.site}") for path, each in verdicts.items() for shape in each.shapes
        ),
        weights=compare_weights(original, converted),
        statistics=tuple(name for decision in plan.rewritten for name in decision.statistics),
        modes=tuple(mode for mode in worst.modes if all(mode in each.modes for each in verdicts.values())),
    )


def _verify_part(original: nn.Module, converted: nn.Module, path: str, call: Inputs) -> Verdict:
    own = call.copied()
    return verify(as_root(original.get_submodule(path))[0], converted.get_submodule(path), own.args, own.kwargs)


def verify_kept(original: nn.Module, converted: nn.Module, plan: Plan, given: Inputs | None) -> Verdict:
    """Prove of a model that kept its class that it computes what the graph form does, and prove the graph form."""
    inputs = example_for(original) if given is None else given
    graph = plan.apply(original, inplace=True, example_inputs=inputs.args, example_kwargs=inputs.kwargs)
    verdict = verify(original, graph, inputs.args, inputs.kwargs)
    differences = [relative_error(_run(graph, inputs, True), _run(converted, inputs, True))]
    if "train" in verdict.modes:
        paths = graph.leaf_paths()
        differences.append(relative_error(_run(graph, inputs, True, paths), _run(converted, inputs, True, paths)))
    return replace(
        verdict,
        identity_error=max(verdict.identity_error, *differences),
        weights=compare_weights(original, converted),
    )


def outputs_in_training(original: nn.Module, converted: TracedModule, inputs: Inputs) -> list[Tensor] | None:
    """What the original gives after `.train()` but for its layers, where that tells more than `.eval()` does."""
    if not has_provable_training(converted):
        return None
    try:
        return _run(original, inputs, True, converted.leaf_paths())
    except ArgumentError:  # some heads that there are in training alone take larger inputs only
        return None


# What differs from run to run, or with what it is given beside: after `.train()` these compare with nothing.
CHANCE = re.compile(r"drop|rand|bernoulli|rrelu|normal|uniform|batch_norm|stochastic|instance_norm")


def has_provable_training(converted: TracedModule) -> bool:
    """Whether `.train()` computes something else, that its layers in evaluation mode make certain."""
    train = converted.graphs[-1]
    functions = (function_name(n.target) for n in train.nodes if n.op not in ("call_module", "get_attr", "placeholder"))
    return train is not converted.eval_graph and not any(map(CHANCE.search, functions))


def _run(model: nn.Module, inputs: Inputs, given: bool, training_but_for: Iterable[str] = ()) -> list[Tensor]:
    with evaluating(model):
        if training_but_for:
            model.train()
            for path in training_but_for:
                with suppress(AttributeError):
                    model.get_submodule(path).eval()
        try:
            own = inputs.copied()
            output = model(*own.args, **own.kwargs)
        except Exception as error:
            what = "the given input" if given else "the assumed input"
            raise ArgumentError(
                f"{type(model).__name__} does not run on {what} of size {inputs.sizes()}: {str(error).splitlines()[0]} "
                "Pass example_inputs (--input-size on the command line) that it takes."
            ) from error
    tensors = list(tensors_in(output))
    if not tensors:
        raise ArgumentError(
            f"{type(model).__name__} returns a {type(output).__name__} without tensors in it, so there is nothing to "
            "compare; wrap the model so that it returns its tensors."
        )
    return tensors


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Every tensor of an output: in containers, and in the fields of dataclasses and the like."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from tensors_in(dict(leaf))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type):
            yield from tensors_in(dict(vars(leaf)))


def one_tap(converted: TracedModule, plan: Plan) -> TracedModule:
    """The converted model with one-tap filters, over the same parameters.

    Where the plan crossed a norm's statistics, the subsampling goes back to the site: there it is exact.
    """
    twin = converted.shallow_copy()
    statistics = {decision.site for decision in plan.rewritten if decision.statistics}
    with twin.edited():
        for graph in twin.graphs:
            paths = node_paths(graph)
            for node in blurring(graph):
                layer = twin.get_submodule(str(node.target))
                if isinstance(layer, Blur):
                    set_module(twin, str(node.target), layer.with_filt_size(1))
                # A blur that several sites share stands where none of them crossed a norm.
                (site, *others) = node.meta["blurs"]
                if site in statistics and not others:
                    _blur_at_site(node, paths[site])
    return twin


def blurring(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that blur in the place of sites, which `meta["blurs"]` names."""
    return [node for node in graph.nodes if "blurs" in node.meta]


def _blur_at_site(blur: fx.Node, dense: fx.Node) -> None:
    blur.replace_all_uses_with(blur.all_input_nodes[0])
    blur.graph.erase_node(blur)
    insert_after(dense, str(blur.target)).meta.update(blur.meta)


def relative_error(expected: list[Tensor], actual: list[Tensor]) -> float:
    """The largest difference of any pair, relative to its first's largest value; inf if they are unlike."""
    if len(expected) != len(actual) or any(e.shape != a.shape for e, a in zip(expected, actual, strict=True)):
        return float("inf")
    return max((_difference(e, a) for e, a in zip(expected, actual, strict=True)), default=0.0)


def _difference(expected: Tensor, actual: Tensor) -> float:
    if expected.is_meta or expected.numel() == 0:
        return 0.0
    e, a = expected.double(), actual.double()
    # Equal infinities and equal NaNs are equal; any other pair with one of them is not.
    same = (e == a) | (e.isnan() & a.isnan())
    difference = torch.where(same, torch.zeros_like(e), (e - a).abs()).nan_to_num(nan=float("inf")).max()
    scale = e.abs().nan_to_num(nan=0.0, posinf=0.0).max()
    return float(difference / scale) if scale > 0 else float(difference)


def site_shapes(
    original: nn.Module, converted: TracedModule, plan: Plan, inputs: Inputs, in_training: bool
) -> tuple[SiteShape, ...]:
    """Every rewritten site's output shape, in the original and where the converted model has subsampled it."""
    traced = trace(original, inputs)
    shapes: dict[str, SiteShape] = {}
    for training in (True, False) if in_training else (False,):
        before, after = output_shapes(traced, inputs, training), output_shapes(converted, inputs, training)
        graph = converted.graphs[-1] if training else converted.eval_graph
        places = landings(plan, training)
        for site, path in subsampling_paths(graph, plan).items():
            # On the way to its landing a map may have got other channels.
            shapes[site] = SiteShape(site, before.get(places.get(site, site)), after.get(path))
    return tuple(shapes[decision.site] for decision in plan.rewritten if decision.site in shapes)


def landings(plan: Plan, training: bool) -> dict[str, str]:
    """Of every conv, the path of the node after which it is blurred."""
    convs = (decision for decision in plan.rewritten if decision.kind is Kind.CONV)
    return {d.site: d.train_landing if training and d.train_landing else d.landing for d in convs}


def subsampling_paths(graph: fx.Graph, plan: Plan) -> dict[str, str]:
    """Of every rewritten site of the graph, the path of the node that has the site's output size."""
    # A slice is blurred before, so its own output is what counts.
    slices = {decision.site for decision in plan.rewritten if decision.kind is Kind.SLICE}
    own = [(site, node) for node in blurring(graph) for site in node.meta["blurs"]]
    return {site: site if site in slices else node.meta.get("gives", node.meta["path"]) for site, node in own}


def compare_weights(original: nn.Module, converted: nn.Module) -> Weights:
    """Compare every parameter and buffer by name."""
    mine, theirs = original.state_dict(keep_vars=True), converted.state_dict(keep_vars=True)
    problems = [f"{name} is missing" for name in mine if name not in theirs]
    problems += [f"{name} is new" for name in theirs if name not in mine]
    for name in mine.keys() & theirs.keys():
        problem = _unlike(mine[name], theirs[name])
        if problem:
            problems.append(f"{name} differs in {problem}")
    if _ties(mine) != _ties(theirs):
        problems.append("tied parameters are not tied alike")
    return Weights(len(mine), tuple(sorted(problems)))


def _unlike(a: Any, b: Any) -> str:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return ""
    for attribute in ("dtype", "device", "shape", "requires_grad"):
        if getattr(a, attribute) != getattr(b, attribute):
            return f"{attribute} ({getattr(a, attribute)} became {getattr(b, attribute)})"
    return "" if a.is_meta or torch.equal(a, b) or bool((a.isnan() & b.isnan() | (a == b)).all()) else "value"


def _ties(state: dict[str, Any]) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for name, value in state.items():
        groups.setdefault(id(value), set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}
