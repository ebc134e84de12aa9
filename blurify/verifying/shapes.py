"""*Shapes*: every rewritten site's output has the original's size.

Where a site and what subsamples it are modules that are called once, the sizes are seen while both models run for the
other proofs; elsewhere both graphs are run on tensors without values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, fx, nn

from blurify.graph.module import TracedModule
from blurify.planning.decision import Decision
from blurify.planning.plan import Plan
from blurify.sites import Lands
from blurify.tracing import trace
from blurify.tracing.inputs import Inputs
from blurify.tracing.shapes import output_shapes
from blurify.verifying.twins import blurring, where
from blurify.verifying.verdict import Shape, SiteShape

Seen = dict[str, list[Shape]]


@contextmanager
def watching(model: nn.Module, paths: Iterable[str]) -> Iterator[Seen]:
    """Collect the sizes of what the modules at the paths give."""
    modules, seen = dict(model.named_modules()), Seen()

    def watch(path: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            # A pool may give its indices beside.
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            seen.setdefault(path, []).append(tuple(first.shape) if isinstance(first, Tensor) else ())

        return note

    with ExitStack() as hooks:
        for path in paths:
            if path in modules:
                hooks.callback(modules[path].register_forward_hook(watch(path)).remove)
        yield seen


def gives(converted: nn.Module, plan: Plan) -> dict[str, str]:
    """Return, of every rewritten site, the path of the module that gives an output of the site's size."""
    if isinstance(converted, TracedModule):
        return subsampling_paths(converted.eval_graph, plan)
    return {site: path for site, (_, path, _) in where(converted).items()}


def seen_shapes(plan: Plan, subsampling: dict[str, str], before: Seen, after: Seen) -> tuple[SiteShape, ...] | None:
    """Return the sizes that were seen; None unless each was seen once."""
    shapes = []
    for decision in plan.rewritten:
        mine, theirs = before.get(decision.site, []), after.get(subsampling.get(decision.site, ""), [])
        if len(mine) != 1 or len(theirs) != 1:
            return None
        shapes.append(SiteShape(decision.site, at_landing(decision, mine[0], theirs[0]), theirs[0]))
    return tuple(shapes)


def at_landing(decision: Decision, mine: Shape, theirs: Shape) -> Shape:
    """Return the site's size, with the channels that its map may have got on the way to its landing."""
    channels = len(mine) - len(decision.stride) - 1
    if decision.landing in ("", decision.site) or len(mine) != len(theirs) or channels < 0:
        return mine
    return (*mine[:channels], theirs[channels], *mine[channels + 1 :])


def site_shapes(
    original: nn.Module, converted: TracedModule, plan: Plan, inputs: Inputs, in_training: bool
) -> tuple[SiteShape, ...]:
    """Return every rewritten site's output size, in the original and where the converted model has subsampled it."""
    traced = trace(original, inputs)
    shapes: dict[str, SiteShape] = {}
    for training in (True, False) if in_training and len(converted.graphs) > 1 else (False,):
        before, after = output_shapes(traced, inputs, training), output_shapes(converted, inputs, training)
        graph = converted.graphs[-1] if training else converted.eval_graph
        places = landings(plan, training)
        for site, path in subsampling_paths(graph, plan).items():
            # On the way to its landing a map may have got other channels.
            shapes[site] = SiteShape(site, before.get(places.get(site, site)), after.get(path))
    return tuple(shapes[decision.site] for decision in plan.rewritten if decision.site in shapes)


def landings(plan: Plan, training: bool) -> dict[str, str]:
    """Return, of every site blurred further on, the path of the node after which it is."""
    further = (decision for decision in plan.rewritten if decision.kind.traits.lands is Lands.FURTHER)
    return {d.site: d.train_landing if training and d.train_landing else d.landing for d in further}


def subsampling_paths(graph: fx.Graph, plan: Plan) -> dict[str, str]:
    """Return, of every rewritten site of the graph, the path of the node that has the site's output size."""
    # Of what is blurred before, its own output is what counts.
    last = {decision.site for decision in plan.rewritten if decision.kind.traits.lands is Lands.BEFORE}
    own = [(site, node) for node in blurring(graph) for site in node.meta["blurs"]]
    return {site: site if site in last else node.meta.get("gives", node.meta["path"]) for site, node in own}
