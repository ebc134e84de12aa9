"""ONNX graphs in onnxruntime, plain against antialiased: `python -m benchmarks.deploy [--quick]`.

Times of one run of a batch, as ratios to the plain network's in the same interleaved run; `gmac` is the ratio of the
arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torchvision
from torch import nn

from benchmarks.timing import medians, record, table
from blurify import antialias
from blurify.files import save_onnx
from blurify.measure.cost import cost

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v2")


def session(model: nn.Module, folder: Path, name: str) -> Any:
    path = folder / f"{name}.onnx"
    save_onnx(model, path, torch.zeros(1, 3, 224, 224))
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def measure(name: str, batch: int, rounds: int) -> dict[str, object]:
    """One row: the plain network's milliseconds, and the ratio of the antialiased one."""
    plain = getattr(torchvision.models, name)().eval()
    ours, x = antialias(plain), torch.randn(batch, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {label: session(m, Path(folder), label) for label, m in (("plain", plain), ("ours", ours))}
    seconds = medians(
        {label: lambda s=s: s.run(None, {s.get_inputs()[0].name: x.numpy()}) for label, s in sessions.items()}, rounds
    )
    gmac = cost(ours, x).macs / cost(plain, x).macs
    ratio = seconds["ours"] / seconds["plain"]
    return {"network": name, "batch": batch, "plain ms": seconds["plain"] * 1e3, "gmac": gmac, "ours": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few networks and rounds")
    options = parser.parse_args()
    names, rounds = (("resnet18", "mobilenet_v2"), 5) if options.quick else (NETWORKS, 11)
    rows = [measure(name, batch, rounds) for name in names for batch in ((1,) if options.quick else (1, 8))]
    print(table(rows))
    print(f"written to {record('deploy', rows)}")


if __name__ == "__main__":
    main()
