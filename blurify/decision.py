"""One decision of a plan, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from blurify.sites import Action, Kind, Reason


class Blurring(TypedDict):
    """What every layer that blurs is made with, by the names of its arguments."""

    filt_size: tuple[int, ...]
    pad_type: str
    strength: float


@dataclass(frozen=True)
class Decision:
    """What happens to one site. Tuples have one entry per spatial axis.

    `landing` is the node after which the blur goes (empty for a kept site), `train_landing` the one in the graph of
    `.train()` where it is another. `strength` is how much of the filter there is, from 0 to 1. `statistics` names the
    norms on the way whose statistics the move changes. `detail` says more of a kept site, where there is more to say,
    and names what a pool written by hand reads.
    """

    site: str
    kind: Kind
    action: Action
    reason: Reason | None = None
    landing: str = ""
    train_landing: str = ""
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    filt_size: tuple[int, ...] = ()
    pad_type: str = ""
    strength: float = 1.0
    statistics: tuple[str, ...] = ()
    detail: str = ""

    @property
    def blurring(self) -> Blurring:
        """What the site's blur is made with."""
        return {"filt_size": self.filt_size, "pad_type": self.pad_type, "strength": self.strength}

    def kept(self, reason: Reason, detail: str = "") -> Decision:
        """The decision to keep this site instead."""
        window = self.kernel_size, self.stride
        return Decision(self.site, self.kind, Action.KEEP, reason, "", "", *window, detail=detail)

    def with_strength(self, strength: float) -> Decision:
        """This decision to rewrite with so much of the filter; at none there is nothing to rewrite for."""
        return replace(self, strength=strength) if strength else self.kept(Reason.NO_BLUR)


def sizes(values: tuple[int, ...]) -> str:
    """Per-axis integers as people write them: `2` where all are equal, else `1x2`."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def filter_text(decision: Decision) -> str:
    """The filter as people write it: `3`, or `3 at 0.5` where its strength is not 1; nothing for a kept site."""
    weak = "" if decision.strength == 1 else f" at {decision.strength:.4g}"
    return sizes(decision.filt_size) + weak if decision.filt_size else ""


def explanation(decision: Decision) -> str:
    """Where the blur goes, or why the site is kept."""
    if decision.action is Action.REWRITE:
        crossed = f" (across the statistics of {', '.join(decision.statistics)})" if decision.statistics else ""
        by_hand = f" (a pool of {decision.detail}, written by hand)" if decision.detail else ""
        return f"after {decision.landing}{crossed}{by_hand}"
    sentence = decision.reason.sentence if decision.reason else ""
    return f"{sentence}: {decision.detail}" if decision.detail else sentence
