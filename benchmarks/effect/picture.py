"""Consistency against accuracy, one point a filter, with its intervals, as a PNG."""

from __future__ import annotations

import io
from typing import Any

from benchmarks.effect.summary import Summary

# Okabe and Ito's palette, told apart under every common colour blindness; markers differ too.
STYLES = {1: ("#000000", "o"), 2: ("#E69F00", "s"), 3: ("#56B4E9", "^"), 4: ("#009E73", "D"), 5: ("#D55E00", "v")}


def draw(summary: Summary, title: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), dpi=100, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(summary.networks), squeeze=False)[0]
    for axes, network in zip(panels, summary.networks, strict=True):
        draw_network(axes, summary, network)
    panels[0].set_ylabel("consistency under circular shifts, %")
    count = len(summary.seeds)
    bars = f"over {count} seeds" if count > 1 else "over test images, one seed"
    figure.suptitle(f"{title}; bars: 95 % {bars}", size=11)
    buffer = io.BytesIO()
    # No date and version: the same numbers give the same file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_network(axes: Any, summary: Summary, network: str) -> None:
    points = {t: [summary.mean(network, t, m) for m in ("accuracy", "consistency")] for t in summary.taps}
    axes.plot(*([point[axis].mean for point in points.values()] for axis in (0, 1)), color="#bbbbbb", lw=1, zorder=0)
    for taps, (x, y) in points.items():
        color, marker = STYLES[taps]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=[[end] for end in summary.bar(network, taps, "accuracy")],
            yerr=[[end] for end in summary.bar(network, taps, "consistency")],
            color=color,
            marker=marker,
            markersize=7,
            elinewidth=1.2,
            capsize=3,
            ls="none",
            label="plain" if taps == 1 else f"filter {taps}",
        )
    axes.set_title(network, size=11)
    axes.set_xlabel("accuracy, %")
    axes.grid(color="#e5e5e5", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, loc="lower right")
