"""Results of the proofs as values, and their text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blurify.filters import Quality

Shape = tuple[int, ...]
State = Literal["ok", "failed", "skipped"]
MARKS: dict[str, str] = {"ok": "ok    ", "failed": "FAILED", "skipped": "skip  "}


@dataclass(frozen=True)
class SiteShape:
    """One rewritten site's output size before and after."""

    site: str
    original: Shape | None
    converted: Shape | None

    @property
    def ok(self) -> bool:
        """Return whether both are known and equal."""
        return self.original is not None and self.original == self.converted


@dataclass(frozen=True)
class Weights:
    """How many parameters and buffers were compared, and what differs, in words."""

    count: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Return whether nothing differs."""
        return not self.problems


@dataclass(frozen=True)
class Row:
    """One more proof: its name, how it went, and that in plain words."""

    name: str
    state: State
    text: str

    @classmethod
    def of(cls, name: str, holds: bool, text: str) -> Row:
        """Return the row of a proof that was run."""
        return cls(name, "ok" if holds else "failed", text)

    def __str__(self) -> str:
        """Return the row as one line."""
        return f"{self.name:<9} {MARKS[self.state]}  {self.text}"


@dataclass(frozen=True)
class FilterUse:
    """One filter, the stride that it prepares for, how many blurs have it, and what it does to white noise."""

    filter: str
    stride: int
    blurs: int
    quality: Quality

    def __str__(self) -> str:
        """Return the use as one line."""
        plural = "s" * (self.blurs != 1)
        return f"filter    {self.filter} at stride {self.stride} ({self.blurs} blur{plural}): {self.quality}"


@dataclass(frozen=True)
class Verdict:
    """The outcome of the proofs.

    `identity_error` is the largest absolute difference of that output which differs most, relative to the largest
    absolute value of that output; `tolerance` is what rounding may do in that output's dtype. `statistics` names the
    norms whose statistics the plan moves a subsampling across: for the proof their subsampling was put back before
    them. `rows` are the proofs of what is done next with the model: `reload`, `train`, `gradients`, `dtypes`, and
    `file` where a file was written. `filters` say what the blurs' filters keep and what they fold.
    """

    identity_error: float
    tolerance: float
    shapes: tuple[SiteShape, ...]
    weights: Weights
    statistics: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("eval",)
    rows: tuple[Row, ...] = ()
    filters: tuple[FilterUse, ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether all that were run hold."""
        exact = self.identity_error <= self.tolerance and all(s.ok for s in self.shapes) and self.weights.ok
        return exact and all(row.state != "failed" for row in self.rows)

    def __str__(self) -> str:
        """Return one line for each proof."""
        wrong = [s for s in self.shapes if not s.ok]
        weights = f"{self.weights.count} parameters and buffers compared" + (", all equal" if self.weights.ok else "")
        shown = [
            Row.of(
                "identity",
                self.identity_error <= self.tolerance,
                f"with one-tap filters the outputs differ by {self.identity_error:.1e} "
                f"(relative; {self.tolerance:.0e} allowed)",
            ),
            Row.of(
                "shapes",
                not wrong,
                f"{len(self.shapes) - len(wrong)} of {len(self.shapes)} rewritten sites keep their output size",
            ),
            Row.of("weights", self.weights.ok, weights),
        ]
        lines = [str(row) for row in (*shown, *self.rows)]
        lines += [str(use) for use in self.filters]
        lines += [f"  {s.site}: {s.original} became {s.converted}" for s in wrong[:5]]
        lines += [f"  {problem}" for problem in self.weights.problems[:5]]
        if self.statistics:
            lines.append(
                f"note      blurred after {len(self.statistics)} norms that take statistics over positions "
                f"({', '.join(self.statistics[:3])}{', ...' if len(self.statistics) > 3 else ''})"
            )
        return "\n".join(lines)
