"""What measuring costs beside the forwards that it needs: `python -m benchmarks.measure [--quick]`.

The images are JPEG files; `raw` runs both networks on as many batches of the same size that lie in memory already.
The ratio is raw time by measured time: 1 means that reading, cutting out and counting take nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import nn

from benchmarks.timing import medians, record, table
from blurify import antialias
from blurify.measure.compare import EvaluatedModel, compare
from blurify.measure.consistency import ROUNDS, window_offsets
from blurify.measure.folder import IMAGENET_MEAN, IMAGENET_STD, Pictures, Preprocessing, find_pictures
from blurify.measure.probes import Windows
from blurify.tracing.modes import evaluating

BATCH, SIZE, SHIFT = 8, 224, 32


def make_pictures(folder: Path, count: int) -> None:
    """Photographs' size and smoothness, and nothing that compresses away."""
    for number in range(count):
        small = torch.randint(256, (3, 48, 64), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        image = Image.frombytes("RGB", (64, 48), small.permute(1, 2, 0).contiguous().numpy().tobytes())
        image.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg", quality=90)


def measured(models: dict[str, nn.Module], folder: Path) -> None:
    """As `blurify measure` does it."""
    found = find_pictures(folder, False)
    pictures = Pictures(found.paths, Preprocessing(SIZE + SHIFT, IMAGENET_MEAN, IMAGENET_STD))
    batches = (
        (numbers, torch.stack([pictures[int(number)][1] for number in numbers]))
        for numbers in torch.arange(len(pictures)).split(BATCH)
    )
    offsets = window_offsets(len(pictures), SHIFT, ROUNDS, seed=0)
    compare([EvaluatedModel(name, model) for name, model in models.items()], [Windows(offsets, SIZE)], batches)


def raw(models: dict[str, nn.Module], batches: int) -> None:
    """The forwards alone: a window in the middle, and two for every round."""
    window = torch.zeros(BATCH, 3, SIZE, SIZE)
    for model in models.values():
        with evaluating(model):
            for _ in range(batches * (2 * ROUNDS + 1)):
                model(window)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and rounds")
    options = parser.parse_args()
    batches, rounds = (1, 3) if options.quick else (2, 5)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        make_pictures(Path(name), batches * BATCH)
        for network in ("resnet18", "mobilenet_v2") if options.quick else ("resnet18", "resnet50", "mobilenet_v2"):
            plain = getattr(torchvision.models, network)().eval()
            models = {"plain": plain, "antialiased": antialias(plain)}
            seconds = medians(
                {"raw": lambda m=models: raw(m, batches), "measured": lambda m=models: measured(m, Path(name))}, rounds
            )
            rate = batches * BATCH / seconds["measured"]
            rows.append(
                {"networks": network, "pictures a second": rate, "raw / measured": seconds["raw"] / seconds["measured"]}
            )
    print(table(rows))
    print(f"written to {record('measure', rows)}")


if __name__ == "__main__":
    main()
