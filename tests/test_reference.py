"""`antialias(torchvision model)` computes what the published hand-written antialiased networks compute."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from blurify import antialias
from tests.conftest import relative_error, run
from tests.networks import Uninitialised, network

with warnings.catch_warnings():
    # The peer imports a module that torch has deprecated.
    warnings.simplefilter("ignore")
    import antialiased_cnns

NAMES = ["resnet18", "resnet50", "resnext50_32x4d", "vgg16", "vgg16_bn", "densenet121", "mobilenet_v2"]


def twins(name: str, filt_size: int) -> tuple[nn.Module, nn.Module]:
    """A torchvision model and the peer's with the same weights, copied by their order."""
    with warnings.catch_warnings(), Uninitialised():
        warnings.simplefilter("ignore")
        peer = getattr(antialiased_cnns, name)(pretrained=False, filter_size=filt_size)
    ours = network(f"torchvision:{name}")
    if name.startswith("res"):
        # The peer's stem pool is 2x2 without padding, which its author calls a mistake.
        ours.maxpool = nn.MaxPool2d(2, 2)
    blurs = {f"{path}.filt" for path, m in peer.named_modules() if type(m).__name__ == "BlurPool"}
    theirs = {key: value for key, value in peer.state_dict().items() if key not in blurs}
    mine = ours.state_dict()
    assert [v.shape for v in theirs.values()] == [v.shape for v in mine.values()]
    peer.load_state_dict(dict(zip(theirs, mine.values(), strict=True)), strict=False)
    return ours, peer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filt_size", [4, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 3, 5))])
def test_equals_the_published_network(name: str, filt_size: int) -> None:
    ours, peer = twins(name, filt_size)
    converted = antialias(ours, filt_size)
    # Of an odd map the peer's blur gives one position more than the average that it stands for.
    x = torch.randn(1, 3, *((64, 96) if name == "densenet121" else (65, 97)))
    assert relative_error(run(peer, x), run(converted, x)) <= 1e-5


def test_alexnet_with_its_stem_equals_the_published_network() -> None:
    ours, peer = twins("alexnet", 4)
    converted = antialias(ours, 4, stem=True)
    x = torch.randn(1, 3, 131, 163)
    assert relative_error(run(peer, x), run(converted, x)) <= 1e-5


def test_the_comparison_can_fail() -> None:
    ours, peer = twins("resnet18", 4)
    x = torch.randn(1, 3, 65, 97)
    assert relative_error(run(peer, x), run(antialias(ours, 3), x)) > 1e-3
