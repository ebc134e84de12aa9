"""Classifiers of MNIST that nobody antialiased, each trained once by the recipe of `benchmarks.fit` and then kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.digits import cache, mnist
from benchmarks.fit import fit
from blurify import demo
from blurify.demo.classifier import CLASSES, FRAME, frame

EPOCHS, WEIGHT_DECAY = 3, 5e-3


def layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def features() -> list[nn.Module]:
    """Three convs, each before a max pool, and one more: `[N, 1, 40, 40]` to `[N, 48, 5, 5]`."""
    return [part for i, o in ((1, 12), (12, 24), (24, 48)) for part in (*layer(i, o), nn.MaxPool2d(2))] + layer(48, 48)


def vgg() -> nn.Sequential:
    """As VGG shrinks, with an average over all positions before the classes."""
    return nn.Sequential(*features(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


def flat() -> nn.Sequential:
    """The same, but that its last layer reads every position with weights of its own."""
    return nn.Sequential(*features(), nn.Flatten(), nn.Linear(48 * (FRAME // 8) ** 2, CLASSES))


KINDS: dict[str, Callable[[], nn.Module]] = {"vgg": vgg, "flat": flat}


def trained(name: str) -> nn.Module:
    """The network with its weights; `resnet` is the classifier that ships with the package."""
    if name == "resnet":
        return demo.load_demo()[0]
    path = cache() / f"recover-{name}.pt"
    torch.manual_seed(0)
    model = KINDS[name]()
    if not path.exists():
        digits = mnist()
        fit(model, frame, digits.pictures, digits.labels, epochs=EPOCHS, weight_decay=WEIGHT_DECAY)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()
