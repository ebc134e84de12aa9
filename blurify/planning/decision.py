"""One decision of a plan, and how it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from blurify.filters import IDEAL, Blurring, Filter
from blurify.sites import Action, Kind, Reason, Site


@dataclass(frozen=True)
class Decision:
    """Decision for one site. Tuples have one entry per spatial axis.

    `landing` is the node after which the blur goes (empty for a kept site), `train_landing` the one in the graph of
    `.train()` where it is another. `filter` names the family of the filter, whose own `taps` are there where they
    were given, and `strength` is how much of it there is, from 0 to 1. `statistics` names the
    norms on the way whose statistics the move changes. `detail` says more of a kept site, where there is more to say,
    and names what a pool written by hand reads. `before` is the squeeze-excite that follows the landing. `side` is
    "left" where an even filter has its extra tap there, "both" where it has half of it on either side. Of a
    resize, `plain_resize` says that it is blurred before, whatever its mode.
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
    filter: str = "binomial"
    taps: tuple[float, ...] = ()
    strength: float = 1.0
    statistics: tuple[str, ...] = ()
    detail: str = ""
    before: str = ""
    side: str = ""
    plain_resize: bool = False

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Return the filter along each axis; that of an axis that is not blurred has one tap."""
        return tuple(Filter(self.filter, size, self.strength, self.taps) for size in self.filt_size)

    @property
    def blurring(self) -> Blurring:
        """Return the arguments of the site's blur."""
        return {"filter": self.filters, "pad_type": self.pad_type}

    def kept(self, reason: Reason, detail: str = "") -> Decision:
        """Return the decision to keep this site instead."""
        window = self.kernel_size, self.stride
        return Decision(self.site, self.kind, Action.KEEP, reason, "", "", *window, detail=detail)

    def with_strength(self, strength: float) -> Decision:
        """This decision to rewrite with so much of the filter; at none there is nothing to rewrite for."""
        return replace(self, strength=strength) if strength else self.kept(Reason.NO_BLUR)


def kept(path: str, site: Site, reason: Reason) -> Decision:
    """Return the decision to keep a site."""
    told = "" if site.by_hand else site.source
    window, stride = site.kernel_size, site.stride
    return Decision(path, site.kind, Action.KEEP, reason, kernel_size=window, stride=stride, detail=told)


@dataclass(frozen=True)
class Part:
    """A submodule of a model that cannot be traced whole: converted, or left as it is for a `reason`."""

    path: str
    kind: str
    reason: str = ""

    def holds(self, site: str) -> bool:
        """Say whether a site lies in it."""
        return site == self.path or site.startswith(f"{self.path}.")


def of_whole(decision: Decision, path: str, root: str = "") -> Decision:
    """Return a part's decision under the names that the whole model has for the part's nodes.

    `root` is the name that the part itself has in its graph, if any.
    """

    def rename(name: str) -> str:
        inner = name.removeprefix(root) if root else f".{name}"
        return path + (inner if inner[:1] in ("", ".") else f".{name}")

    return _renamed(decision, rename)


def of_part(decision: Decision, path: str, root: str = "") -> Decision:
    """Return the decision under the names that the part has for its own nodes: the inverse of `of_whole`."""

    def rename(name: str) -> str:
        inner = name.removeprefix(path)
        return root + inner if root else inner.removeprefix(".")

    return _renamed(decision, rename)


def _renamed(decision: Decision, rename: Callable[[str], str]) -> Decision:
    return replace(
        decision,
        site=rename(decision.site),
        landing=decision.landing and rename(decision.landing),
        train_landing=decision.train_landing and rename(decision.train_landing),
        statistics=tuple(map(rename, decision.statistics)),
    )


@dataclass(frozen=True)
class OutputShift:
    """How far the sampling grid of an output that is made of maps moves: in input pixels, along each axis."""

    output: str
    pixels: tuple[float, ...]

    @property
    def most(self) -> float:
        """Return the largest move, in either direction."""
        return max(map(abs, self.pixels), default=0.0)


def sizes(values: tuple[int, ...]) -> str:
    """Per-axis integers as people write them: `2` where all are equal, else `1x2`."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def filter_text(decision: Decision) -> str:
    """Return the filter as people write it: `3`, `lanczos 11`, `3 at 0.5`; nothing for a kept site."""
    if not decision.filt_size:
        return ""
    kind = "" if decision.filter == "binomial" else f"{decision.filter} "
    size = "" if decision.filter == IDEAL else sizes(decision.filt_size)
    weak = "" if decision.strength == 1 else f" at {decision.strength:.4g}"
    side = f" {decision.side}" if decision.side else ""
    return f"{kind}{size}".strip() + side + weak


def explanation(decision: Decision) -> str:
    """Say where the blur goes, or why the site is kept."""
    if decision.action is Action.REWRITE:
        crossed = f" (across the statistics of {', '.join(decision.statistics)})" if decision.statistics else ""
        by_hand = f" (a pool of {decision.detail}, written by hand)" if decision.detail else ""
        gate = f" (before the squeeze-excite {decision.before}, which reads all positions)" if decision.before else ""
        return f"after {decision.landing}{crossed}{gate}{by_hand}"
    sentence = decision.reason.sentence if decision.reason else ""
    return f"{sentence}: {decision.detail}" if decision.detail else sentence


def parts_table(parts: tuple[Part, ...]) -> list[str]:
    """Return the lines that say which parts of a model were converted, and which were left and why."""
    converted = [f"{part.path} ({part.kind})" for part in parts if not part.reason]
    left = [f"left as it is: {part.path} ({part.kind}): {part.reason}" for part in parts if part.reason]
    return [f"converted in parts: {', '.join(converted)}", *left] if parts else []
