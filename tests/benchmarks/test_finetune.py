"""The scripts of the guide to fine-tuning: they learn, plainly and by Lightning, and change the caller's weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import finetune
from benchmarks.digits import Digits
from blurify import antialias
from blurify.demo import load_demo, read_asset
from blurify.measure.consistency import accuracy
from tests.conftest import run


@pytest.fixture(scope="module")
def digits() -> Digits:
    """The shipped images: 640 to learn from, the others to test on."""
    pictures, labels = read_asset()["pictures"], read_asset()["labels"].long()
    return Digits(pictures[:640], labels[:640], pictures[640:], labels[640:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["plain", "lightning"])
def test_tuning_beats_carrying(how: str, digits: Digits) -> None:
    if how == "lightning":
        pytest.importorskip("lightning")
    models = finetune.tune(how, digits, 640)
    right = {
        name: float(accuracy(model, finetune.frame(digits.test), digits.truth).mean()) for name, model in models.items()
    }
    assert right["carried"] < right["tuned"]
    assert list(models) == ["original", "carried", "tuned"]
    table = finetune.report(models, finetune.frame(digits.test[:50]), digits.truth[:50])
    assert [line.split()[0] for line in table.splitlines()] == ["accuracy", "original", "carried", "tuned", "tuning"]


@pytest.mark.parametrize("keep_class", [False, True])
def test_an_optimizer_made_before_the_conversion_trains_it(keep_class: bool) -> None:
    model, pictures, labels = load_demo()
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    # One step of the plain network, so that there is a momentum to go on with.
    step(model, optimizer, pictures[:32], labels[:32])
    momenta = {id(p): optimizer.state[p]["momentum_buffer"] for p in model.parameters()}
    smooth: nn.Module = antialias(model, keep_class=keep_class, inplace=True)
    assert [id(p) for p in smooth.parameters()] == [id(p) for p in model.parameters()]
    out = run(smooth, pictures[:4]).clone()
    step(smooth, optimizer, pictures[:32], labels[:32])
    assert not torch.equal(run(smooth, pictures[:4]), out)
    assert all(optimizer.state[p]["momentum_buffer"] is momenta[id(p)] for p in smooth.parameters())
    assert all(
        not torch.equal(old, new)
        for (name, old), new in zip(before.named_parameters(), smooth.parameters(), strict=True)
        if "weight" in name
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, pictures: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model.train()(pictures), labels).backward()
    optimizer.step()
