"""What the proofs found, as values, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SiteShape:
    """One rewritten site's output size before and after."""

    site: str
    original: Shape | None
    converted: Shape | None

    @property
    def ok(self) -> bool:
        """Whether both are known and equal."""
        return self.original is not None and self.original == self.converted


@dataclass(frozen=True)
class Weights:
    """How many parameters and buffers were compared, and what differs, in words."""

    count: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.problems


@dataclass(frozen=True)
class Verdict:
    """The outcome of the three proofs.

    `identity_error` is the largest absolute difference of any output, relative to the largest absolute value of that
    output, in each of `modes`; `tolerance` is what rounding may do in the model's dtype. `statistics` names the norms
    whose statistics the plan moves a subsampling across: for the proof their subsampling was put back before them.
    """

    identity_error: float
    tolerance: float
    shapes: tuple[SiteShape, ...]
    weights: Weights
    statistics: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("eval",)

    @property
    def ok(self) -> bool:
        """Whether all three hold."""
        return self.identity_error <= self.tolerance and all(s.ok for s in self.shapes) and self.weights.ok

    def __str__(self) -> str:
        """Three lines, one a proof."""
        holds = self.identity_error <= self.tolerance
        wrong = [s for s in self.shapes if not s.ok]
        modes = ", after .eval() and .train()" if "train" in self.modes else ""
        lines = [
            f"identity  {_mark(holds)}  with one-tap filters the outputs differ by {self.identity_error:.1e} "
            f"(relative; {self.tolerance:.0e} allowed){modes}",
            f"shapes    {_mark(not wrong)}  {len(self.shapes) - len(wrong)} of {len(self.shapes)} rewritten sites keep "
            "their output size",
            f"weights   {_mark(self.weights.ok)}  {self.weights.count} parameters and buffers compared"
            + (", all equal" if self.weights.ok else ""),
        ]
        lines += [f"  {s.site}: {s.original} became {s.converted}" for s in wrong[:5]]
        lines += [f"  {problem}" for problem in self.weights.problems[:5]]
        if self.statistics:
            lines.append(
                f"note      blurred after {len(self.statistics)} norms that take statistics over positions "
                f"({', '.join(self.statistics[:3])}{', ...' if len(self.statistics) > 3 else ''})"
            )
        return "\n".join(lines)


def _mark(holds: bool) -> str:
    return "ok    " if holds else "FAILED"
