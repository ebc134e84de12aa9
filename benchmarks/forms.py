"""The forms of a converted network beside each other: `python -m benchmarks.forms [--quick]`.

Milliseconds of one forward of the plain network, eager and without gradients, and as ratios to that, in the same
interleaved run: the network that keeps its class, and its graph without and with `blurify.optimize`. `gmac` are ratios
of arithmetic, and `s` the seconds of the conversions.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torchvision

from benchmarks.timing import medians, record, table
from blurify import antialias
from blurify.cost import cost

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "densenet121")


def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """One row."""
    plain = torchvision.models.get_model(name).eval()
    begun = time.perf_counter()
    kept = antialias(plain, keep_class=True, inplace=True)
    between = time.perf_counter()
    graph = antialias(plain, inplace=True)
    ended = time.perf_counter()
    forms = {
        "plain": plain,
        "class": kept,
        "graph, not optimized": antialias(plain, optimize=False, inplace=True),
        "graph": graph,
    }
    x = torch.randn(batch, 3, 224, 224)
    seconds = medians({label: lambda form=form: form(x) for label, form in forms.items()}, rounds)
    counts = {label: cost(form, x[:1]).macs for label, form in forms.items()}
    milliseconds = seconds.pop("plain")
    row: dict[str, Any] = {"network": name, "batch": batch, "plain ms": milliseconds * 1e3}
    row |= {label: value / milliseconds for label, value in seconds.items()}
    row |= {f"gmac {label}": counts[label] / counts["plain"] for label in ("class", "graph")}
    return row | {"s class": between - begun, "s graph": ended - between}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forms", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few networks and rounds")
    options = parser.parse_args()
    torch.manual_seed(0)
    names, batches, rounds = (NETWORKS[:2], (8,), 5) if options.quick else (NETWORKS, (1, 8), 9)
    with torch.no_grad():
        rows = [measure(name, batch, rounds) for name in names for batch in batches]
    print(table(rows))
    print(f"written to {record('forms', rows)}")


if __name__ == "__main__":
    main()
