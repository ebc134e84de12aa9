"""Report of `blurify recover`, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from blurify.measure.estimate import Estimate
from blurify.recovery.recovering import Recovered
from blurify.recovery.trials import Strongest


@dataclass(frozen=True)
class Report:
    """The figures of the original, the carried and the recovered network on images kept apart, and the recovery."""

    figures: dict[str, dict[str, Estimate]]
    recovered: Recovered
    written: str
    pictures: int
    skipped: list[str]
    searched: Strongest | None = None

    def __str__(self) -> str:
        """A table, and what was done."""
        rows = [["", *self.figures]]
        for figure in next(iter(self.figures.values())):
            rows.append([figure, *(str(figures[figure]) for figures in self.figures.values())])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [] if self.searched is None else [*str(self.searched).splitlines(), ""]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.append(f"on {self.pictures} images that nothing was fitted to; agreement is with the original")
        lines.append(str(self.recovered))
        lines += [f"kept: {name}: {skip}" for name, skip in self.recovered.skipped.items()]
        lines += [f"skipped: {reason}" for reason in self.skipped]
        return "\n".join([*lines, self.written])

    def as_json(self) -> str:
        """The same for a program, with every layer."""
        found = self.recovered
        content = {
            "models": {n: {k: asdict(e) for k, e in figures.items()} for n, figures in self.figures.items()},
            "test_pictures": self.pictures,
            "pictures": found.pictures,
            "pictures_wanted": found.pictures_wanted,
            "errors": found.errors,
            "seconds": found.seconds,
            "layers": [asdict(layer) for layer in found.layers],
            "kept": found.skipped,
            "skipped": self.skipped,
            "written": self.written,
        }
        if self.searched is not None:
            content["min_agreement"] = self.searched.min_agreement
            content["strengths"] = self.searched.chosen.strengths
            content["trade_off"] = [asdict(trial) | {"strength": trial.strength} for trial in self.searched.trials]
        return json.dumps(content, indent=1)
