"""What `blurify measure` says, to people and to programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from blurify.measure.estimate import Estimate


@dataclass(frozen=True)
class About:
    """What the figures are of."""

    images: str
    pictures: int
    complete: bool
    rounds: int
    size: int
    shift: int
    protocol: str
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        """Return two lines."""
        partial = "" if self.complete else " (partial: interrupted)"
        return (
            f"{self.pictures} pictures of {self.images}{partial}, {self.rounds} pairs of windows of {self.size} in "
            f"{self.size + self.shift} pixels each\n"
            f"protocol {self.protocol}, seed {self.seed}, mean {_list(self.mean)}, std {_list(self.std)}"
        )


@dataclass(frozen=True)
class Measured:
    """The figures of each model by name, those of both, and what they are of."""

    models: dict[str, dict[str, Estimate]]
    both: dict[str, Estimate]
    about: About
    skipped: list[str]

    def __str__(self) -> str:
        """A table, and what it is of."""
        rows = [["", *self.models, *(["difference"] if self.both else [])]]
        for figure in next(iter(self.models.values())):
            change = [self.both[figure].as_change()] if figure in self.both else []
            rows.append([figure, *(str(figures[figure]) for figures in self.models.values()), *change])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if "agreement" in self.both:
            lines.append(f"both say the same of {self.both['agreement']}")
        lines.append(str(self.about))
        if self.skipped:
            lines.append(f"{len(self.skipped)} skipped:")
            lines += [f"  {reason}" for reason in self.skipped]
        return "\n".join(lines)

    def as_json(self) -> str:
        """The same for a program: `consistency` is the first model's."""
        models = [{"model": name} | _plain(figures) for name, figures in self.models.items()]
        first, *rest = models
        content: dict[str, Any] = first | ({"other": rest[0]} if rest else {})
        if self.both:
            content |= {"difference": _plain({k: v for k, v in self.both.items() if k != "agreement"})}
            content |= _plain({"agreement": self.both["agreement"]})
        return json.dumps(content | asdict(self.about) | {"skipped": self.skipped}, indent=1)


def _plain(figures: dict[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(figure) for name, figure in figures.items()}


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
