"""Time of a conversion as a ratio to the trace it needs, and its memory: `python -m benchmarks.convert [--quick]`.

The rows are interleaved in one run, so that a busy machine is busy for all of them; the figure is the median. Memory is
what each takes at its peak beyond the model itself, in MiB and as a ratio to the size of the weights.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torchvision
from torch import nn

from benchmarks.memory import peak
from benchmarks.timing import medians, record, table
from blurify import antialias
from blurify.tracing import trace

ACTIONS: dict[str, Callable[[nn.Module], object]] = {
    "trace (both modes)": trace,
    "antialias, inplace=True": lambda model: antialias(model, inplace=True),
    "antialias": antialias,
    "copy.deepcopy of the model": copy.deepcopy,
}


def prepare(name: str, action: str) -> Callable[[], object]:
    """The action on a model, after one on another model of the kind, which imports and caches what stays."""
    ACTIONS[action](getattr(torchvision.models, name)())
    model = getattr(torchvision.models, name)()
    return lambda: ACTIONS[action](model)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50", help="a torchvision classification model")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    model = getattr(torchvision.models, options.model)()
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20
    timed = {name: (lambda action=action: action(model)) for name, action in ACTIONS.items()}
    seconds = medians(timed, 5 if options.quick else 25)
    rows: list[dict[str, object]] = []
    for name, value in seconds.items():
        memory = peak(prepare, options.model, name)
        ratio = value / seconds["trace (both modes)"]
        row: dict[str, object] = {"model": options.model, "action": name, "ms": value * 1e3, "/ trace": ratio}
        rows.append(row | {"MiB": round(memory), "/ weights": memory / weights})
    print(table(rows))
    print(f"written to {record('convert', rows)}")


if __name__ == "__main__":
    main()
