"""One network of every task through the API: it converts, is proved, and trains where the original trains."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.video import resnet

from blurify import antialias, verify
from tests.conftest import randomize_statistics, relative_error


def video() -> nn.Module:
    """Return torchvision's `r3d_18` with one block a stage."""
    kinds = (resnet.BasicBlock, [resnet.Conv3DSimple] * 4, [1, 1, 1, 1], resnet.BasicStem)
    return resnet.VideoResNet(*kinds, num_classes=3)


def segmenter() -> nn.Module:
    return torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=4, aux_loss=True
    )


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class UNet(nn.Module):
    """Two steps down by pooling, two up by transposed convs, a skip connection at each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.middle = block(3, 8), block(8, 16), block(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.join2, self.join1 = block(32, 16), block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(self.pool(first))
        up = self.up2(self.middle(self.pool(second)))
        up = self.up1(self.join2(torch.cat([up, second], 1)))
        return self.head(self.join1(torch.cat([up, first], 1)))


def audio() -> nn.Module:
    """Raw samples: a strided stem, a strided conv after it, both poolings, a global average."""
    body = [nn.Conv1d(1, 8, 9, 4, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4)]
    body += [nn.Conv1d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.GELU(), nn.Conv1d(16, 16, 3, padding=1), nn.ReLU()]
    body += [nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5)]
    return nn.Sequential(*body)


@dataclass(frozen=True)
class Task:
    """A network, what it is fed, and what of it is rewritten with which options."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rewritten: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)
    # Relative, of the largest output: rounding in float32 through so many layers.
    tolerance: float = 1e-5


TASKS = {
    "segmentation": Task(segmenter, (2, 3, 64, 80), {"max": 1, "conv": 2}),
    "video": Task(video, (2, 3, 8, 32, 32), {"conv": 6}),
    "audio": Task(audio, (2, 1, 512), {"max": 1, "conv": 1, "avg": 1}),
    "audio, stem": Task(audio, (2, 1, 512), {"max": 1, "conv": 2, "avg": 1}, {"stem": True}),
    "u-net": Task(UNet, (2, 3, 32, 48), {"max": 2}),
    "u-net, upsampling": Task(UNet, (2, 3, 32, 48), {"max": 2, "upsample": 2}, {"upsample": True}),
}


@pytest.mark.parametrize("name", [pytest.param("segmentation", marks=pytest.mark.slow), *list(TASKS)[1:]])
def test_tasks(name: str) -> None:
    task = TASKS[name]
    model, x = randomize_statistics(task.make()), torch.randn(task.shape)
    converted = antialias(model, example_inputs=x, **task.options)
    assert Counter(str(d.kind) for d in converted.meta["blurify"].rewritten) == task.rewritten
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    assert verdict.identity_error <= task.tolerance
    model.eval()
    converted.eval()
    with torch.no_grad():
        expected, actual = tensors(model(x)), tensors(converted(x))
    assert expected.keys() == actual.keys()
    assert min(relative_error(expected[key], actual[key]) for key in expected) > 1e-4
    trains_like(model, converted, lambda m: sum(out.square().mean() for out in tensors(m(x)).values()))


def tensors(output: Any) -> dict[str, Tensor]:
    return dict(output) if isinstance(output, dict) else {"out": output}


def trains_like(model: nn.Module, converted: nn.Module, loss_of: Callable[[nn.Module], Any]) -> None:
    """One step moves every parameter of `converted` that a step of `model` would move, and none of `model`."""
    before = copy.deepcopy(model.state_dict())
    moved = step(converted, loss_of)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert moved == step(model, loss_of)
    assert moved


def step(model: nn.Module, loss_of: Callable[[nn.Module], Any]) -> set[str]:
    """Train for one step; the names of the parameters that got a gradient, each finite and leading to a change."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss = loss_of(model)
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    graded = {name: p for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in graded.items():
        assert parameter.grad.isfinite().all(), name
        assert torch.equal(parameter, before[name]) == bool((0.1 * parameter.grad + before[name] == before[name]).all())
    assert any(not torch.equal(parameter, before[name]) for name, parameter in graded.items())
    return set(graded)


@pytest.mark.slow
def test_detection() -> None:
    model = randomize_statistics(
        torchvision.models.detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96, box_detections_per_img=7
        )
    )
    backbone = antialias(model.backbone, example_inputs=torch.randn(1, 3, 64, 64))
    # The stem is kept; the pyramid's upsampling adds to the lateral maps, and its last level is a pool.
    assert len(backbone.meta["blurify"].rewritten) == 8
    verdict = verify(model.backbone, backbone, torch.randn(1, 3, 64, 96))
    assert verdict.ok, str(verdict)

    converted = copy.deepcopy(model)
    converted.backbone = backbone
    assert list(converted.state_dict()) == list(model.state_dict())
    pictures = [torch.rand(3, 64, 80), torch.rand(3, 70, 64)]
    boxes = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])} for _ in pictures]

    def loss_of(m: nn.Module) -> Tensor:
        losses = m(pictures, boxes)
        assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
        assert all(loss.isfinite() for loss in losses.values())
        return sum(losses.values())

    trains_like(model, converted, loss_of)
    converted.eval()
    with torch.no_grad():
        found = converted(pictures)
    assert [set(detections) for detections in found] == [{"boxes", "labels", "scores"}] * 2
    assert all(len(detections["boxes"]) == len(detections["scores"]) for detections in found)
