"""Models for bulk runs: small ones of any number, and such as raise, hang, die or eat memory while they are built."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import Tensor, nn

HOME = __name__


def tiny(width: int = 4) -> nn.Module:
    """Converted in an instant; there are as many as there are widths."""
    pool = nn.MaxPool2d(2)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), pool, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def tiny_names(count: int) -> list[str]:
    return [f"{HOME}:tiny?width={width}" for width in range(1, count + 1)]


def raises() -> nn.Module:
    raise RuntimeError("there is no such block")


def hangs() -> nn.Module:
    time.sleep(3600)
    return tiny()


def dies() -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    return tiny()


def eats() -> nn.Module:
    held = [bytearray(2**26) for _ in range(10_000)]
    return tiny(len(held))


def hangs_later() -> nn.Module:
    """Weighed without storage it is harmless."""
    return tiny() if torch.empty(0).is_meta else hangs()


def dies_later() -> nn.Module:
    return tiny() if torch.empty(0).is_meta else dies()


def eats_later() -> nn.Module:
    return tiny() if torch.empty(0).is_meta else eats()


class Bessel(nn.Module):
    """No graph of ONNX has an operator for it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def bessel() -> nn.Module:
    return nn.Sequential(*tiny(), Bessel())


def volume() -> nn.Module:
    """It takes five channels, and no image has those."""
    return nn.Sequential(nn.Conv2d(5, 4, 3), *list(tiny())[1:])
