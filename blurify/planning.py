"""The plan: one decision for every site, in order. Making it is pure; applying it decides nothing."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from blurify.decision import Decision, explanation, filter_text, sizes
from blurify.errors import HooksWarning
from blurify.graph_module import TracedModule
from blurify.plan_json import PLAN_VERSION, decisions_from
from blurify.rewrite import rewrite
from blurify.sites import Action
from blurify.tracing import trace
from blurify.tracing.inputs import as_inputs


@dataclass(frozen=True)
class Plan:
    """The ordered, frozen, printable list of decisions.

    >>> import blurify, torchvision
    >>> plan = blurify.plan(torchvision.models.resnet18())
    >>> len(plan.rewritten), len(plan.kept)
    (7, 1)
    """

    decisions: tuple[Decision, ...]

    @property
    def rewritten(self) -> tuple[Decision, ...]:
        """The decisions to rewrite."""
        return tuple(d for d in self.decisions if d.action is Action.REWRITE)

    @property
    def kept(self) -> tuple[Decision, ...]:
        """The decisions to keep."""
        return tuple(d for d in self.decisions if d.action is Action.KEEP)

    def apply(
        self,
        model: nn.Module,
        inplace: bool = False,
        *,
        example_inputs: Any = None,
        example_kwargs: Mapping[str, Any] | None = None,
    ) -> TracedModule:
        """Rewrite `model` as the plan says, and let the result's `meta["blurify"]` be this plan.

        See `blurify.antialias` for the arguments. The inputs matter to a model that is not traced without.

        Raises:
            PlanError: the plan names a site or landing that the model does not have, or one where no blur may be.
            TraceError: the model cannot be traced.
        """
        return self.apply_traced(trace(model, as_inputs(example_inputs, example_kwargs)), inplace)

    def apply_traced(
        self, traced: TracedModule, inplace: bool = False, copied: Mapping[int, Any] | None = None
    ) -> TracedModule:
        """Rewrite a traced model, itself, over parameters of its own unless `inplace`; see `own_tree` for `copied`."""
        unhooked = traced.meta.get("unhooked")
        if unhooked:
            warnings.warn(lost_hooks(type(traced).__name__, unhooked), HooksWarning, stacklevel=3)
            traced.meta["unhooked"] = ()
        if not inplace:
            traced.own_tree(copied)
        rewrite(traced, self.rewritten)
        set_plan(traced, self)
        return traced

    def followed_by(self, later: Plan) -> Plan:
        """The plan that does at once what this one and then `later`, a plan of its result, do."""
        news = {d.site: d for d in later.rewritten}
        return Plan(tuple(news.get(d.site, d) for d in self.decisions))

    def to_json(self) -> str:
        """The plan as JSON text, which `from_json` reads back to an equal plan."""
        decisions = [_trimmed(asdict(d)) for d in self.decisions]
        content = {"version": PLAN_VERSION, "decisions": decisions}
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            PlanError: the text is no plan, or one of another version.
        """
        return cls(decisions_from(text))

    def __str__(self) -> str:
        """A table, one line a site."""
        rows = [["site", "kind", "stride", "action", "filter", "landing or reason"]]
        rows += [_row(d) for d in self.decisions]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
        padding = "".join(f", padding {pad}" for pad in sorted({d.pad_type for d in self.rewritten}))
        lines.append(f"{len(self.rewritten)} rewritten, {len(self.kept)} kept{padding}")
        return "\n".join(lines)


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that was carried out on a converted model: in `meta["blurify"]` of it."""
    meta = getattr(model, "meta", None)
    plan = meta.get("blurify") if isinstance(meta, dict) else None
    return plan if isinstance(plan, Plan) else None


def set_plan(model: nn.Module, plan: Plan) -> None:
    """Let the model say that the plan was carried out on it, after what was before."""
    earlier = plan_of(model)
    meta: Any = getattr(model, "meta", None)
    if not isinstance(meta, dict):
        meta = model.__dict__["meta"] = {}
    meta["blurify"] = plan if earlier is None else earlier.followed_by(plan)


def lost_hooks(name: str, paths: tuple[str, ...]) -> str:
    """Say which hooks the converted model does not run."""
    return (
        f"hooks of {', '.join(map(repr, paths))} in {name} are not carried over, since a graph does not call these "
        "modules; put them on layers, or on the converted model."
    )


def _trimmed(decision: dict[str, Any]) -> dict[str, Any]:
    # Strength is newer than the format, which says nothing of the whole of it.
    usual = {"strength": 1.0}
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
