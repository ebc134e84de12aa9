"""Report of `blurify measure`, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blurify.cli.figures import Figure
from blurify.cli.pricing import Price

Cells = list[list[str]]


@dataclass(frozen=True)
class About:
    """Name the data that the figures are about."""

    images: str
    pictures: int
    complete: bool
    task: str
    rounds: int
    size: int
    shift: int
    protocol: str
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def __str__(self) -> str:
        """Return two lines."""
        partial = "" if self.complete else " (partial: interrupted)"
        return (
            f"{self.pictures} images of {self.images}{partial}, {self.rounds} pairs of windows of {self.size} in "
            f"{self.size + self.shift} pixels each\n"
            f"protocol {self.protocol}, seed {self.seed}, mean {_list(self.mean)}, std {_list(self.std)}, "
            f"{self.interpolation}"
        )


@dataclass(frozen=True)
class Sites:
    """Of each site, the shares of energy that are folded back before and after, and how they differ."""

    network: str
    shares: dict[str, tuple[Figure, Figure, Figure]]
    not_run: tuple[str, ...] = ()

    def rows(self) -> Cells:
        """Return a table of them."""
        header = [f"folded back in {self.network}", "before", "after", "difference"]
        return [header] + [[site, str(b), str(a), d.as_change()] for site, (b, a, d) in self.shares.items()]


@dataclass(frozen=True)
class Measured:
    """The figures of each model by name, those of both, what they cost, of their sites, and what they are of."""

    models: dict[str, dict[str, Figure]]
    both: dict[str, Figure]
    prices: dict[str, Price]
    sites: Sites | None
    about: About
    skipped: list[str]

    def __str__(self) -> str:
        """Tables, and what they are of."""
        lines = aligned(self.figure_rows())
        if "agreement" in self.both:
            lines.append(self.yardstick())
        if self.prices:
            lines += ["", *aligned(self.price_rows())]
        if self.sites is not None:
            lines += ["", *aligned(self.sites.rows())]
            lines += [f"not run in .eval(): {site}" for site in self.sites.not_run]
        lines += [""] * bool(self.prices or self.sites) + [str(self.about)]
        if self.skipped:
            lines.append(f"{len(self.skipped)} skipped:")
            lines += [f"  {reason}" for reason in self.skipped]
        return "\n".join(lines)

    def yardstick(self) -> str:
        """Say how often both models agree, and how often the first agrees with itself at a shift of one pixel."""
        first, own = next(iter(self.models.items()))
        said = f"both predict the same for {self.both['agreement']}"
        near = own.get("one-pixel consistency")
        return (
            said if near is None else f"{said}; {first} agrees with itself on {near} when the image moves by one pixel"
        )

    def figure_rows(self) -> Cells:
        """Tabulate the measurements, a row a figure."""
        rows = [["", *self.models, *(["difference"] if self.both else [])]]
        for figure in next(iter(self.models.values())):
            change = [self.both[figure].as_change()] if figure in self.both else []
            rows.append([figure, *(str(figures[figure]) for figures in self.models.values()), *change])
        return rows

    def price_rows(self) -> Cells:
        """Tabulate the models' costs, a row a measure, with the second model's as a ratio too."""
        rows = [["", *self.prices, *(["ratio"] if len(self.prices) == 2 else [])]]
        cells, ratios = [price.cells() for price in self.prices.values()], self.ratios()
        for name, field in zip(cells[0], Price.__dataclass_fields__, strict=True):
            values = [each[name] for each in cells]
            ratio = [f"{ratios[field]:.2f}" if field in ratios else ""] if len(values) == 2 else []
            rows.append([name, *("" if value is None else f"{value:.3f}" for value in values), *ratio])
        return [row for row in rows if any(row[1:])]

    def ratios(self) -> dict[str, float]:
        """Return the ratio of the second model's costs to the first's, for each measure that both have."""
        if len(self.prices) != 2:
            return {}
        first, second = (asdict(price) for price in self.prices.values())
        return {name: second[name] / value for name, value in first.items() if value and second[name] is not None}

    def as_json(self) -> str:
        """Return the same for a program: `consistency` is the first model's."""
        models: list[dict[str, Any]] = [{"model": name} | _plain(figures) for name, figures in self.models.items()]
        for model, price in zip(models, self.prices.values(), strict=False):
            model["cost"] = asdict(price)
        first, *rest = models
        content: dict[str, Any] = first | ({"other": rest[0]} if rest else {})
        if self.ratios():
            content["ratio"] = self.ratios()
        if self.both:
            content |= {"difference": _plain({k: v for k, v in self.both.items() if k != "agreement"})}
            content |= _plain({k: v for k, v in self.both.items() if k == "agreement"})
        if self.sites is not None:
            names = ("before", "after", "difference")
            content["folded_not_run"] = list(self.sites.not_run)
            content["folded"] = {
                site: _plain(dict(zip(names, shares, strict=True))) for site, shares in self.sites.shares.items()
            }
        return json.dumps(content | asdict(self.about) | {"skipped": self.skipped}, indent=1)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: asdict(figure) for name, figure in figures.items()}


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
