"""Time of a conversion as a ratio to the trace it needs: `python -m benchmarks.convert [--quick]`.

The rows are interleaved in one run, so that a busy machine is busy for all of them; the figure is the median.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torchvision

from benchmarks.timing import medians
from blurify import antialias
from blurify.tracing import trace


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
