"""Two small networks that shrink a map three times, in the two ways that networks do.

A convolution that pads with zeros sees where the border is, and a network of such ones knows where in the frame it
looks: it notices a shift whatever its subsampling does. Zhang (ICML 2019, section 4.1) convolves circularly where the
images are shifted circularly, and so do these networks; beside their subsampling, nothing in them notices such a
shift. Both end in a global average.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blurify

CLASSES = 10


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False, padding_mode="circular")


def layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]


def head(inputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]


def pool() -> list[nn.Module]:
    """A max pool of stride 2, of a map with its first row and column once more at the end.

    On a map of even size the pool never reads those, but the dense one that antialiasing puts in its place does, and is
    circular by them.
    """
    return [nn.CircularPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 2)]


def vgg() -> nn.Sequential:
    """Three max pools, each after a convolution, and one more convolution. `[N, 1, H, W]` to `[N, 10]`."""
    shrinking = [part for i, o in ((1, 8), (8, 16), (16, 32)) for part in (*layer(i, o), *pool())]
    return nn.Sequential(*shrinking, *layer(32, 32), *head(32))


class Block(nn.Module):
    """A residual block that halves the map, in its first convolution and in its shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=2), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride=2), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def resnet() -> nn.Sequential:
    """A max pool and two residual blocks of stride 2. `[N, 1, H, W]` to `[N, 10]`."""
    return nn.Sequential(*layer(1, 8), *pool(), Block(8, 16), Block(16, 32), *head(32))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"vgg": vgg, "resnet": resnet}


def variant(name: str, taps: int, seed: int) -> nn.Module:
    """A network with the weights that the seed draws: as it is for one tap, else antialiased."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    if taps == 1:
        return network
    return blurify.antialias(network, filt_size=taps, pad_type="circular")
