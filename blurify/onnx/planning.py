"""Plan an ONNX file: each of its graphs is mirrored, and decided by what decides for PyTorch's graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from blurify.errors import ArgumentError
from blurify.onnx.mirror import Mirror, mirror
from blurify.onnx.rewriting import refusal
from blurify.onnx.scopes import Scope, bodies, captured, scopes_of
from blurify.onnx.shapes import Shapes
from blurify.planning.decide import decide
from blurify.planning.decision import Decision, OutputShift
from blurify.planning.plan import Plan
from blurify.planning.spec import Spec
from blurify.planning.stems import is_learnt
from blurify.sites import Action, Reason

# What the names of the nodes have that we write.
OWN = "/blur/"


def make_plan(model: Any, spec: Spec, shapes: Shapes, folder: Path | None = None) -> Plan:
    """Decide for every site of every graph of a file.

    >>> make_plan(model, Spec.of(), infer(model, {"x": (1, 3, 224, 224)})).rewritten
    (...)
    """
    if any(each.is_ideal for _, each in spec.filters):
        raise ArgumentError("The ideal filter has no taps to write to an ONNX file; use another, such as lanczos.")
    # A resize is blurred before it, whatever its mode: engines differ in what they take for antialiasing.
    spec = replace(spec, antialias_resize=False)
    decisions: list[Decision] = []
    outputs: tuple[OutputShift, ...] = ()
    mirrors: dict[int, Mirror] = {}
    for scope in scopes_of(model, folder):
        mirrors[scope.number] = mirrored = mirror(scope, shapes)
        inner = scope.parent is not None and _is_inner(scope, mirrors[scope.parent.number])
        found, shifts = decide(mirrored.traced, spec.of_part(str, inner), mirrored.shapes_of)
        decisions += [_editable(decision, scope, shapes) for decision in found if not _holds_graphs(decision, scope)]
        outputs = outputs if scope.parent is not None else _named(shifts, scope)
    spec.check_patterns_match([decision.site for decision in decisions])
    return Plan(tuple(decisions), outputs=outputs)


def with_one_tap(plan: Plan) -> tuple[Decision, ...]:
    """Return the decisions with filters of one tap, which leave what the file computes as it is.

    Statistics over positions are those of the map that is not subsampled, so here nothing is moved across them.
    """
    return tuple(
        replace(
            decision,
            filt_size=(1,) * len(decision.filt_size),
            strength=1.0,
            side="",
            landing=decision.site if decision.statistics else decision.landing,
        )
        for decision in plan.rewritten
    )


def _editable(decision: Decision, scope: Scope, shapes: Shapes) -> Decision:
    node = scope.graph.node[scope.index[decision.site]] if decision.site in scope.index else None
    if decision.action is Action.KEEP:
        return decision
    if _is_blurred(decision, scope):
        return decision.kept(Reason.ALREADY_ANTIALIASED)
    reason = refusal(decision, node, scope, shapes)
    return decision if reason is None else decision.kept(reason)


def _is_blurred(decision: Decision, scope: Scope) -> bool:
    """Return whether a blur of ours follows, as after a convolution of four steps, which keeps two of them."""
    at = scope.index.get(decision.landing)
    landed = set() if at is None else set(scope.graph.node[at].output)
    readers = [node for node in scope.graph.node if landed & set(node.input)]
    return bool(readers) and all(OWN in node.name for node in readers)


def _holds_graphs(decision: Decision, scope: Scope) -> bool:
    """Return whether a decision is about a node whose graphs have decisions of their own."""
    at = scope.index.get(decision.site)
    return at is not None and bool(bodies(scope.graph.node[at]))


def _is_inner(scope: Scope, outer: Mirror) -> bool:
    """Return whether a body reads what something before it has learnt, or what an earlier round has."""
    if scope.owner.op_type != "If":
        return True
    paths = {name: path for path, name in outer.values.items()}
    nodes = {node.meta["path"]: node for node in outer.traced.graph.nodes}
    waiting = [nodes[paths[name]] for name in captured(scope.graph) if name in paths]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node in seen or node.op == "get_attr":
            continue
        seen.add(node)
        if is_learnt(node, outer.traced) and node.op not in ("placeholder", "output"):
            return True
        waiting += node.all_input_nodes
    return False


def _named(shifts: tuple[OutputShift, ...], scope: Scope) -> tuple[OutputShift, ...]:
    """Return the shifts under the names that the file has for its outputs."""
    names = {f"output[{number}]": result.name for number, result in enumerate(scope.graph.output)}
    return tuple(replace(shift, output=names.get(shift.output, shift.output)) for shift in shifts)
