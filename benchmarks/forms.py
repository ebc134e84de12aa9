"""The forms of a converted network beside each other: `python -m benchmarks.forms [--quick]`.

Milliseconds of one forward of the plain network, eager, without gradients and in one thread, and as ratios to that, in
the same interleaved run: the network that keeps its class, and its graph without and with `blurify.optimizing`. They
are of the processor's time, so that other work on the machine counts little. `gmac` are ratios of arithmetic.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torchvision

from benchmarks.timing import medians, record, table
from blurify import antialias
from blurify.measure.cost import cost

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "densenet121")


def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """One row."""
    plain = torchvision.models.get_model(name).eval()
    forms = {
        "plain": plain,
        "class": antialias(plain, form="class", inplace=True),
        "graph, not optimized": antialias(plain, form="graph", optimize=False, inplace=True),
        "graph": antialias(plain, form="graph", inplace=True),
    }
    x = torch.randn(batch, 3, 224, 224)
    seconds = medians({label: lambda form=form: form(x) for label, form in forms.items()}, rounds, time.process_time)
    counts = {label: cost(form, x[:1]).macs for label, form in forms.items()}
    milliseconds = seconds.pop("plain")
    row: dict[str, Any] = {"network": name, "batch": batch, "plain ms": milliseconds * 1e3}
    row |= {label: value / milliseconds for label, value in seconds.items()}
    return row | {f"gmac {label}": counts[label] / counts["plain"] for label in ("class", "graph")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forms", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one batch and few rounds")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    names, batches, rounds = (options.networks, (8,), 3) if options.quick else (options.networks, (1, 8), 9)
    with torch.no_grad():
        rows = [measure(name, batch, rounds) for name in names for batch in batches]
    print(table(rows))
    print(f"written to {record('forms', rows)}")


if __name__ == "__main__":
    main()
