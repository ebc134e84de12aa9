"""Time of a conversion as a ratio to the trace it needs: `python -m benchmarks.convert [--quick]`.

The rows are interleaved in one run, so that a busy machine is busy for all of them; the figure is the median.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torchvision

from blurify import antialias
from blurify.tracing import trace


def medians(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each action, all of them once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    for _ in range(rounds):
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50", help="a torchvision classification model")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    model = getattr(torchvision.models, options.model)()
    actions: dict[str, Callable[[], object]] = {
        "trace (both modes)": lambda: trace(model),
        "antialias, inplace=True": lambda: antialias(model, inplace=True),
        "antialias": lambda: antialias(model),
        "copy.deepcopy of the model": lambda: copy.deepcopy(model),
    }
    figures = medians(actions, 5 if options.quick else 25)
    reference = figures["trace (both modes)"]
    print(f"{options.model:28}      ms   / trace")
    for name, seconds in figures.items():
        print(f"{name:28}{seconds * 1e3:8.1f}{seconds / reference:10.2f}")


if __name__ == "__main__":
    main()
