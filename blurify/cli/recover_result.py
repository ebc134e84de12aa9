"""Report of `blurify recover`, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from blurify.measure.estimate import Estimate
from blurify.recovery.choosing import Choice
from blurify.recovery.recover import Recovered
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
    choice: Choice | None = None

    def __str__(self) -> str:
        """Return a table, and what was done."""
        rows = [["", *self.figures]]
        for figure in next(iter(self.figures.values())):
            rows.append([figure, *(str(figures[figure]) for figures in self.figures.values())])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        searches = [str(found) for found in (self.searched, self.choice) if found is not None]
        lines = [line for text in searches for line in (*text.splitlines(), "")]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.append(f"on {self.pictures} held-out images; agreement is with the original")
        lines += self.yardstick()
        lines.append(str(self.recovered))
        lines += [f"kept: {name}: {skip}" for name, skip in self.recovered.skipped.items()]
        lines += [f"skipped: {reason}" for reason in self.skipped]
        return "\n".join([*lines, self.written])

    def yardstick(self) -> list[str]:
        """Say how often the recovered network agrees with the original, and how often the original with itself."""
        first, last = (list(self.figures.values())[place] for place in (0, -1))
        if "agreement" not in last or "one-pixel consistency" not in first:
            return []
        return [
            f"the recovered network agrees with the original on {last['agreement']}; the original agrees with itself "
            f"on {first['one-pixel consistency']} when the image moves by one pixel"
        ]

    def as_json(self) -> str:
        """Return the same for a program, with every layer."""
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
        if self.choice is not None:
            content["filter"] = self.choice.chosen.filter
            content["filters"] = [asdict(trial) for trial in self.choice.trials]
            content["why"] = self.choice.sentence()
        return json.dumps(content, indent=1)
