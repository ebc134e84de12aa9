"""An ordinary small residual classifier of digits, aliased where such networks are.

It shrinks its maps three times in the ways networks do: a max pool, and two residual blocks whose first conv and
whose shortcut have stride 2. It ends in a global average pool, so that what remains of its sensitivity to shifts is
aliasing and borders.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# Images of 28 x 28 sit in the middle of an empty frame of this size.
FRAME = 40
CLASSES = 10


class Block(nn.Module):
    """A basic residual block that halves the map. `[N, inputs, H, W]` to `[N, outputs, H/2, W/2]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class DigitNet(nn.Module):
    """Digits to logits: `[N, 1, 40, 40]` float, 0 (paper) to 1 (ink), to `[N, 10]`.

    >>> import torch
    >>> DigitNet()(torch.zeros(2, 1, 40, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = Block(16, 32)
        self.layer2 = Block(32, 64)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def frame(pictures: Tensor) -> Tensor:
    """Put uint8 images `[N, 28, 28]` in the middle of an empty frame: `[N, 1, 40, 40]` float32 from 0 to 1.

    >>> import torch
    >>> frame(torch.full((1, 28, 28), 255, dtype=torch.uint8)).sum().item()
    784.0
    """
    before = (FRAME - pictures.shape[-1]) // 2
    after = FRAME - pictures.shape[-1] - before
    return F.pad(pictures.float() / 255, (before, after, before, after)).unsqueeze(1)
