"""Whole networks, plain, antialiased by us and written by hand: `python -m benchmarks.latency [--quick] [--compiled]`.

Times of one forward without gradients, as ratios to the plain network's in the same interleaved run; `gmac` is the
ratio of the arithmetic, and `dense` the floor: the network at the strides that the method needs, with one-tap filters,
which is what the convs and pools cost without any blur.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext, suppress
from typing import Any

import antialiased_cnns
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.layers import LAYOUTS
from benchmarks.timing import medians, record, table
from blurify import antialias
from blurify.verifying.twins import one_tap

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v2", "alexnet")
# Nobody has published these antialiased by hand.
MORE = ("mobilenet_v3_small", "efficientnet_b0", "regnet_y_800mf", "convnext_tiny")


def networks_of(name: str) -> dict[str, nn.Module]:
    """The plain network, ours in both forms, ours of one tap, and the hand-written one, alike in all else."""
    plain = getattr(torchvision.models, name)().eval()
    if name.startswith("resnet"):
        # The hand-written ones have this pool in their stem.
        plain.maxpool = nn.MaxPool2d(2, 2)
    ours = antialias(plain, 4, stem=name == "alexnet", form="graph")
    kept = antialias(plain, 4, stem=name == "alexnet", form="class")
    # The dense ops without the blurs.
    dense = one_tap(ours, ours.meta["blurify"])
    found = {"plain": plain, "ours": ours, "class": kept, "dense": dense}
    if name in MORE:
        return found
    return found | {"by hand": getattr(antialiased_cnns, name)(filter_size=4, pretrained=False).eval()}


def arithmetic(model: nn.Module) -> float:
    """Multiplications and additions at 224x224."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224))
    return float(counter.get_total_flops())


def measure(name: str, batch: int, layout: str, rounds: int, compiled: bool = False) -> dict[str, Any]:
    """One row: the plain network's milliseconds, and the ratios of the others."""
    networks = networks_of(name)
    ratio = arithmetic(networks["ours"]) / arithmetic(networks["plain"])
    if compiled:
        # A graph break is an error then.
        networks = {label: torch.compile(network, fullgraph=True) for label, network in networks.items()}
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=LAYOUTS[layout])
    actions = {}
    for label, network in networks.items():
        network.to(memory_format=LAYOUTS[layout])
        # The hand-written VGG and AlexNet cannot take channels-last maps.
        with suppress(RuntimeError) if label == "by hand" else nullcontext():
            network(x)
            actions[label] = lambda network=network: network(x)
    seconds = medians(actions, rounds)
    plain = seconds.pop("plain")
    row: dict[str, Any] = {"network": name, "batch": batch, "layout": layout, "plain ms": plain * 1e3, "gmac": ratio}
    row |= {label: value / plain for label, value in seconds.items()}
    return row | {"class / graph": row["class"] / row["ours"], "class / dense": row["class"] / row["dense"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases and rounds")
    parser.add_argument("--networks", nargs="+", default=(*NETWORKS, *MORE), choices=(*NETWORKS, *MORE))
    parser.add_argument("--compiled", action="store_true", help="compile all of them")
    options = parser.parse_args()
    torch.manual_seed(0)
    batches, rounds = ((8,), 5) if options.quick else ((1, 8), 11)
    with torch.no_grad():
        rows = [
            measure(name, batch, layout, rounds, options.compiled)
            for name in options.networks
            for batch in batches
            for layout in LAYOUTS
        ]
    print(table(rows))
    print(f"written to {record('compiled latency' if options.compiled else 'latency', rows)}")


if __name__ == "__main__":
    main()
