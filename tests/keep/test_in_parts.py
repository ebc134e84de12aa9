"""Modules of the class form take large batches in parts, where that changes nothing that anybody sees."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock

from blurify import antialias
from blurify.graph.hosts import is_in_parts
from blurify.kernels import eager
from tests.conftest import randomize_statistics

X = torch.randn(4, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def a_small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "PART", 8 * 32 * 32 * 4)


class Net(nn.Module):
    """A strided block behind a stem."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(8, 8, 1), block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(self.stem(x))
        return result


def basic_block(kind: type[nn.Module] = BasicBlock) -> nn.Module:
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return Net(kind(8, 16, 2, shortcut))


def converted(model: nn.Module) -> nn.Module:
    return antialias(randomize_statistics(model.eval()), form="class", example_inputs=X)


def paths_in_parts(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if is_in_parts(module)]


def sizes_seen(model: nn.Module, monkeypatch: pytest.MonkeyPatch, x: Tensor = X) -> tuple[list[int], Tensor]:
    seen: list[int] = []
    convolve = nn.Conv2d._conv_forward
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(nn.Conv2d, "_conv_forward", lambda *a: (seen.append(len(a[1])), convolve(*a))[1])
        result: Tensor = model(x)
    return sorted(set(seen)), result


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (basic_block(), "block"),
        (Net(InvertedResidual(8, 8, 2, 2)), "block.conv"),
        (Net(nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())), "block"),
        (Net(nn.MaxPool2d(3, 2, 1)), "block"),
        (Net(nn.AvgPool2d(2)), ""),
    ],
)
def test_a_block_takes_a_batch_in_parts(model: nn.Module, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = converted(model)
    assert paths_in_parts(kept) == ([path] if path else [])
    sizes, result = sizes_seen(kept, monkeypatch)
    assert sizes == [4] or (path and sizes[0] < 4)
    with torch.no_grad():
        torch.testing.assert_close(result, torch.cat([kept(x) for x in X.split(1)]))
        torch.testing.assert_close(result, antialias(model, form="graph", optimize=False)(X))
        for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            assert torch.equal(twin(X), result)
            assert paths_in_parts(twin) == paths_in_parts(kept)


def listened_to(model: nn.Module) -> None:
    model.block.bn1.register_forward_hook(lambda *_: None)  # type: ignore[operator,union-attr]


def training(model: nn.Module) -> None:
    model.block.bn2.train()  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("change", [listened_to, training])
def test_a_block_that_must_see_the_batch_takes_it_whole(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = converted(basic_block())
    assert sizes_seen(kept, monkeypatch)[0] != [4]
    change(kept)
    assert sizes_seen(kept, monkeypatch)[0] == [4]


def test_gradients_pass_through_the_whole_batch() -> None:
    kept = converted(basic_block())
    x = X.clone().requires_grad_()
    kept(x).sum().backward()
    assert x.grad is not None
    assert kept(x).shape == (4, 16, 16, 16)


class SetsAside(BasicBlock):
    """A block of somebody's own, which no trace tells all of."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return super().forward(x)


class MixesSamples(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


@pytest.mark.parametrize("block", [SetsAside, MixesSamples])
def test_a_class_that_is_not_known_takes_a_batch_whole(block: Any) -> None:
    layers = (nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    model = basic_block(block) if block is SetsAside else Net(block(*layers))
    assert not any(path in ("", "block") for path in paths_in_parts(converted(model)))


def test_a_known_class_that_mixes_samples_takes_a_batch_whole() -> None:
    kept = converted(Net(nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8, track_running_stats=False))))
    assert paths_in_parts(kept) == []


def test_a_forward_of_the_instance_takes_a_batch_whole() -> None:
    model = basic_block()
    block: Any = model.block
    block.forward = block.forward
    assert paths_in_parts(converted(model)) == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "vgg11_bn"])
def test_modules_subsample_once(name: str) -> None:
    kept = antialias(torchvision.models.get_model(name).eval(), form="class", inplace=True)
    paths = paths_in_parts(kept)
    assert len(paths) > 2
    assert "features" not in paths
    assert not any(path.startswith(f"{other}.") for path in paths for other in paths)


def test_blocks_with_attention_over_channels_take_a_batch_in_parts() -> None:
    kept = antialias(timm.create_model("mobilenetv3_small_050").eval(), form="class", inplace=True)
    assert len(paths_in_parts(kept)) == len(vars(kept)["meta"]["blurify"].rewritten)


def test_what_is_compiled_for_a_size_holds_the_parts() -> None:
    kept = converted(basic_block())
    compiled = torch.compile(kept, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), kept(X))
