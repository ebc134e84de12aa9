"""One model on its way through a command: opened, planned, converted, priced and proved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from blurify import api, files
from blurify.cli import report
from blurify.cli.options import AUTO, Request
from blurify.errors import ArgumentError, OmissionWarning, one_line
from blurify.filters import Filter
from blurify.graph.module import TracedModule
from blurify.measure.cost import Cost, cost
from blurify.planning.plan import Plan, moved_grid
from blurify.planning.spec import ARGUMENTS, DEFAULT_FILT_SIZE, Spec
from blurify.rewriting.carrying import carried_out
from blurify.rewriting.losses import OF_GRAPHS, left_out, lost_hooks
from blurify.tracing.inputs import Inputs, input_size, number_of, random_batch
from blurify.verifying import proving
from blurify.verifying.verdict import Verdict

# Of a model without any of these, a wrong size of input is not what is wrong.
SHRINKING = (_ConvNd, _MaxPoolNd, _AvgPoolNd, fx.GraphModule)

# The taps where nobody chose and the grid would move.
ODD = 3


@dataclass(frozen=True)
class Session:
    """A model that was read and planned; `cost` is that of the model as read, `examples` its inputs."""

    request: Request
    loaded: files.LoadedModel
    examples: tuple[Tensor, ...]
    cost: Cost
    traced: TracedModule | None
    plan: Plan
    remark: str = ""


def open_model(request: Request, partial: bool = False) -> Session:
    """Read the model that a command line names, try its input size, and plan its conversion, in parts if need be.

    >>> open_model(request).plan.rewritten
    (...)
    """
    with report.stage("reading"):
        loaded = files.read_model(request.model, **request.reading)
        examples = _examples(loaded, request)
        price = _first_cost(loaded.model, examples, request)
    with report.stage("tracing"):
        traced, plan = api.trace_and_plan(loaded.model, spec_of(request), Inputs(examples), partial)
    if not plan.decisions and loaded.form != "native":
        raise ArgumentError(nothing_to_shrink(request))
    opened = Session(request, loaded, examples, price, traced, plan)
    # One pixel is a warning's worth; a smaller filter is worth more than that.
    if request.chose_filter or traced is None or all(shift.most <= 1 for shift in plan.moved):
        return opened
    return with_odd_filters(opened, traced)


def spec_of(request: Request) -> Spec:
    """Return what is asked of a conversion.

    >>> spec_of(request).grid
    'published'
    """
    asked = {name: getattr(request, name) for name in ARGUMENTS}
    return Spec.of(**asked | ({"filter": "binomial"} if request.filter == AUTO else {}))


def replanned(session: Session, chosen: Filter) -> Plan | None:
    """Return the plan for another filter; None where only parts of the model could be traced.

    >>> replanned(session, Filter("lanczos")).rewritten[0].filter
    'lanczos'
    """
    if session.traced is None:
        return None
    request = replace(session.request, filter=chosen.kind, filt_size=chosen.size)
    return api.make_plan(session.loaded.model, session.traced, spec_of(request), Inputs(session.examples))


def with_odd_filters(session: Session, traced: TracedModule) -> Session:
    """Plan again with filters of 3 taps, and on a centered grid where these alone are not enough.

    >>> with_odd_filters(session, session.traced).request.filt_size
    3
    """

    def replan(request: Request) -> Plan:
        return api.make_plan(session.loaded.model, traced, spec_of(request), Inputs(session.examples))

    request, plan, remark = odd_filters(session.request, session.plan, replan)
    return replace(session, request=request, plan=plan, remark=remark)


def odd_filters(request: Request, plan: Plan, replan: Callable[[Request], Plan]) -> tuple[Request, Plan, str]:
    """Return a request for which no grid moves, its plan and a remark; what was given, where there is none.

    >>> odd_filters(request, plan, replan)[0].filt_size
    3
    """
    for grid in dict.fromkeys((request.grid, "centered")):
        odd = replace(request, filt_size=ODD, grid=grid)
        found = replan(odd)
        if not found.moved:
            centered = " on a centered grid" if grid != request.grid else ""
            most = max(shift.most for shift in plan.outputs)
            remark = (
                f"filters have {ODD} taps{centered}, since with {DEFAULT_FILT_SIZE} the sampling grid of an output "
                f"would move by {most:.4g} input pixels; --filt-size {DEFAULT_FILT_SIZE} is used as given."
            )
            return odd, found, remark
    return request, plan, ""


def nothing_to_shrink(request: Request) -> str:
    """Say that the model is none for us."""
    return (
        f"{request.model} has no convolution or pooling that shrinks its maps, so there is nothing to antialias; "
        "give a convolutional network."
    )


def nothing_to_do(session: Session) -> str:
    """Say why a plan that rewrites nothing does so.

    >>> nothing_to_do(session)
    'nothing to do: ResNet is already antialiased.'
    """
    loaded = session.loaded
    return api.no_effect(session.request.model if loaded.is_program else type(loaded.model).__name__, session.plan)


def remarks(session: Session) -> list[str]:
    """List remarks about the model, besides its plan.

    >>> remarks(session)
    []
    """
    meta = session.traced.meta if session.traced else {}
    unhooked = meta.get("unhooked")
    said = [lost_hooks(type(session.loaded.model).__name__, unhooked)] if unhooked else []
    omitted = meta.get("omitted")
    if omitted:
        said.append(left_out(type(session.loaded.model).__name__, omitted))
    said += [session.remark] if session.remark else []
    said += [moved_grid(session.plan)] if session.plan.moved else []
    if session.loaded.is_program:
        said.append("an exported program has one mode; .train() does not change it.")
    if session.loaded.taken:
        said.append(f"{session.loaded.taken}.")
    if meta.get("eval_only"):
        said.append("torch.export records this model after .eval() only, so .train() switches its layers alone.")
    return said


def remarks_on(session: Session, converted: nn.Module, of_graph: list[str]) -> list[str]:
    """Return what a user should know of the converted model, given the remarks on its graph.

    >>> remarks_on(session, converted, remarks(session))
    []
    """
    meta: dict[str, Any] = vars(converted)["meta"]
    if meta["blurify_form"] == "class":
        return [f"{session.loaded.taken}."] if session.loaded.taken else []
    why, lost = meta["blurify_why"], meta.get("left_out")
    of_graph = [line for line in of_graph if not line.startswith(OF_GRAPHS)]
    of_graph += [left_out(type(session.loaded.model).__name__, lost)] if lost else []
    return [*of_graph, *([f"the result is a graph: {why}."] if why else [])]


def convert(session: Session, form: str, partial: bool = False) -> nn.Module:
    """Do what the session's plan says, to a copy, in the given form, without arithmetic that is not needed.

    >>> convert(session, "graph").meta["blurify"] == session.plan
    True
    """
    if session.loaded.is_program and form == "class":
        raise ArgumentError(f"{session.request.model} is a program, which has no class to keep; write --form graph.")
    form = "graph" if session.loaded.is_program else form
    with warnings.catch_warnings():
        # Said already, in one line of ours.
        warnings.simplefilter("ignore", OmissionWarning)
        return carried_out(
            session.plan,
            session.loaded.model,
            session.traced,
            Inputs(session.examples),
            form,
            optimize=True,
            partial=partial,
        )


def verify(session: Session, converted: nn.Module) -> Verdict:
    """Run the proofs at the session's input size.

    >>> verify(session, converted).ok
    True
    """
    return proving.verify(session.loaded.model, converted, example_inputs=session.examples)


def _first_cost(model: nn.Module, examples: tuple[Tensor, ...], request: Request) -> Cost:
    """Price the model as read, which is also the test that it takes an input of this size."""
    try:
        return cost(model, *examples)
    except Exception as error:
        if not any(isinstance(module, SHRINKING) for module in model.modules()):
            raise ArgumentError(nothing_to_shrink(request)) from error
        size = ",".join(str(number) for number in examples[0].shape[1:])
        fact = one_line(error)
        hint = "give the size it takes" if request.input_size else "name the size it takes"
        raise ArgumentError(
            f"{request.model} does not accept one input of size {size}: {fact.rstrip('.')}; "
            f"{hint} with --input-size, such as 3,224,224."
        ) from error


def _examples(loaded: files.LoadedModel, request: Request) -> tuple[Tensor, ...]:
    if loaded.signature is not None:
        return _taken(loaded, loaded.signature, request)
    model = loaded.model
    return (random_batch((1, *(request.input_size or input_size(model))), number_of(model)),)


def _taken(loaded: files.LoadedModel, signature: files.ProgramSignature, request: Request) -> tuple[Tensor, ...]:
    """Describe the inputs of an exported program."""
    if request.input_size is not None and loaded.form == "program":
        raise ArgumentError(f"{request.model} is a program, which says itself what it takes; remove --input-size.")
    args, kwargs = signature.inputs.args, signature.inputs.kwargs
    if kwargs or not args or not all(isinstance(arg, Tensor) for arg in args):
        raise ArgumentError(
            f"{request.model} takes something else than tensors; export it so that it takes these alone."
        )
    return args
