"""A training step of whole networks, plain, antialiased by us and written by hand: `python -m benchmarks.training`.

Times are ratios to the plain network's in the same interleaved run; peak memory is of the first step, in MiB.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.latency import NETWORKS, arithmetic, networks_of
from benchmarks.layers import LAYOUTS
from benchmarks.memory import peak
from benchmarks.timing import medians, record, table


def step(network: nn.Module, batch: int, layout: str) -> Callable[[], object]:
    """Forward, backward and an update of the weights."""
    network = network.train().to(memory_format=LAYOUTS[layout])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=LAYOUTS[layout])
    y = torch.zeros(batch, dtype=torch.long)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return run


def prepare(name: str, label: str, batch: int, layout: str) -> Callable[[], object]:
    """The first step of one of the networks, which allocates gradients and momenta too."""
    return step(networks_of(name)[label], batch, layout)


def measure(name: str, batch: int, layout: str, rounds: int) -> dict[str, Any]:
    """One row."""
    networks = networks_of(name)
    del networks["dense"]
    ratio = arithmetic(networks["ours"]) / arithmetic(networks["plain"])
    steps = {label: step(network, batch, layout) for label, network in networks.items()}
    seconds = medians(steps, rounds)
    plain = seconds.pop("plain")
    row: dict[str, Any] = {"network": name, "batch": batch, "layout": layout, "plain ms": plain * 1e3, "gmac": ratio}
    row |= {label: value / plain for label, value in seconds.items()}
    return row | {f"{label} MiB": round(peak(prepare, name, label, batch, layout)) for label in networks}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--networks", nargs="+", default=("resnet50",), choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = [
        measure(name, options.batch, layout, 3 if options.quick else 9)
        for name in options.networks
        for layout in LAYOUTS
    ]
    print(table(rows))
    print(f"written to {record('training', rows)}")


if __name__ == "__main__":
    main()
