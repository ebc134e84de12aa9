"""The plan: one decision for every site, in order. Making it is pure; applying it decides nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from blurify.planning.decision import (
    Decision,
    OutputShift,
    Part,
    explanation,
    filter_text,
    of_part,
    parts_table,
    sizes,
)
from blurify.planning.plan_json import PLAN_VERSION, read_plan
from blurify.sites import Action

if TYPE_CHECKING:
    from torch import nn

    from blurify.graph.module import TracedModule


@dataclass(frozen=True)
class Plan:
    """The ordered, frozen, printable list of decisions.

    >>> import blurify, torchvision
    >>> plan = blurify.plan(torchvision.models.resnet18())
    >>> len(plan.rewritten), len(plan.kept)
    (7, 1)
    """

    decisions: tuple[Decision, ...]
    parts: tuple[Part, ...] = ()
    outputs: tuple[OutputShift, ...] = ()

    @property
    def moved(self) -> tuple[OutputShift, ...]:
        """Return the outputs whose sampling grid moves by a pixel or more."""
        return tuple(shift for shift in self.outputs if shift.most >= 1)

    @property
    def rewritten(self) -> tuple[Decision, ...]:
        """Return the decisions to rewrite."""
        return tuple(d for d in self.decisions if d.action is Action.REWRITE)

    @property
    def kept(self) -> tuple[Decision, ...]:
        """Return the decisions to keep."""
        return tuple(d for d in self.decisions if d.action is Action.KEEP)

    @overload
    def apply(
        self,
        model: nn.Module,
        inplace: bool = ...,
        *,
        form: Literal["graph"],
        optimize: bool = ...,
        example_inputs: Any = ...,
        example_kwargs: Mapping[str, Any] | None = ...,
    ) -> TracedModule: ...
    @overload
    def apply(
        self,
        model: nn.Module,
        inplace: bool = ...,
        *,
        form: str = ...,
        optimize: bool = ...,
        example_inputs: Any = ...,
        example_kwargs: Mapping[str, Any] | None = ...,
    ) -> nn.Module: ...
    def apply(
        self,
        model: nn.Module,
        inplace: bool = False,
        *,
        form: str = "auto",
        optimize: bool = True,
        example_inputs: Any = None,
        example_kwargs: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """Return what `blurify.antialias` returns where it makes this plan; see there for the arguments.

        The inputs matter to a model that is not traced without.

        Raises:
            PlanError: the plan names a site or landing that the model does not have, or one where no blur may be.
            TraceError: the model cannot be traced.
        """
        from blurify.rewriting.carrying import carry_out

        return carry_out(self, model, inplace, form, optimize, example_inputs, example_kwargs)

    def of_part(self, part: Part, root: str) -> Plan:
        """Return the plan of one part by itself; `root` is the name that the part has in its own graph, if any."""
        return Plan(tuple(of_part(d, part.path, root) for d in self.decisions if part.holds(d.site)))

    def followed_by(self, later: Plan) -> Plan:
        """Return the plan that does at once what this one and then `later`, a plan of its result, do."""
        news = {d.site: d for d in later.rewritten}
        return replace(self, decisions=tuple(news.get(d.site, d) for d in self.decisions))

    def to_json(self) -> str:
        """Return the plan as JSON text, which `from_json` reads back to an equal plan."""
        decisions = [_trimmed(asdict(d)) for d in self.decisions]
        content: dict[str, Any] = {"version": PLAN_VERSION, "decisions": decisions}
        if self.parts:
            content["parts"] = [asdict(part) for part in self.parts]
        if self.outputs:
            content["outputs"] = [asdict(shift) for shift in self.outputs]
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            PlanError: the text is no plan, or one of another version.
        """
        return cls(*read_plan(text))

    def __reduce__(self) -> tuple[Any, ...]:
        # Files name this one function, and nothing of what decisions are made of.
        return plan_from_json, (self.to_json(),)

    def __str__(self) -> str:
        """Return a table, one line a site."""
        rows = [["site", "kind", "stride", "action", "filter", "landing or reason"]]
        rows += [_row(d) for d in self.decisions]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
        padding = "".join(f", padding {pad}" for pad in sorted({d.pad_type for d in self.rewritten}))
        lines.append(f"{len(self.rewritten)} rewritten, {len(self.kept)} kept{padding}")
        lines += parts_table(self.parts)
        return "\n".join([*lines, *grid_lines(self)])


def grid_lines(plan: Plan) -> list[str]:
    """Return a line for each output whose sampling grid moves."""
    return [
        f"grid of {shift.output}: moved {' and '.join(f'{by:+.4g}' for by in shift.pixels)} input pixels"
        for shift in plan.outputs
        if shift.most
    ]


def moved_grid(plan: Plan) -> str:
    """Say which outputs move, and what to do about it."""
    moves = ", ".join(f"{shift.output} by {shift.most:.4g} input pixels" for shift in plan.moved)
    return (
        f"the sampling grid moves, of {moves}; use an odd filter (filt_size=3), or grid='centered' (--grid centered)."
    )


def plan_from_json(text: str) -> Plan:
    """Read what `Plan.to_json` wrote; pickled plans name this function, as `blurify.saved.plan`."""
    return Plan.from_json(text)


plan_from_json.__module__, plan_from_json.__qualname__ = "blurify.saved", "plan"


def plan_of(model: nn.Module) -> Plan | None:
    """Return the plan that was carried out on a converted model: in `meta["blurify"]` of it."""
    meta = getattr(model, "meta", None)
    plan = meta.get("blurify") if isinstance(meta, dict) else None
    return plan if isinstance(plan, Plan) else None


def set_plan(model: nn.Module, plan: Plan, form: str) -> None:
    """Let the model say that the plan was carried out on it in this form, after what was before."""
    earlier = plan_of(model)
    meta: Any = model.__dict__.get("meta")
    if not isinstance(meta, dict):
        meta = model.__dict__["meta"] = {}
    meta["blurify"] = plan if earlier is None else earlier.followed_by(plan)
    meta["blurify_form"] = form


def _trimmed(decision: dict[str, Any]) -> dict[str, Any]:
    # What is newer than the format is there only where it is not as it was before.
    usual = {"filter": "binomial", "strength": 1.0, "plain_resize": False}
    return {k: value for k, value in decision.items() if value not in ((), "", None) and usual.get(k) != value}


def _row(decision: Decision) -> list[str]:
    return [
        decision.site,
        str(decision.kind),
        sizes(decision.stride) if decision.stride else "",
        str(decision.action),
        filter_text(decision),
        explanation(decision),
    ]
