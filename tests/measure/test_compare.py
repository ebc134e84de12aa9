"""Models on the same windows, a batch at a time: as the functions on whole tensors count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.compare import NotFiniteError, compare
from blurify.measure.consistency import logits, shifted_answers, window_offsets


def net(classes: int = 7) -> nn.Module:
    torch.manual_seed(classes)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))


def batches(pictures: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for numbers in torch.arange(len(pictures)).split(size):
        yield numbers, pictures[numbers]


@pytest.mark.parametrize("protocol", ["picture", "zhang-batch"])
def test_equals_the_functions_on_whole_tensors(protocol: str) -> None:
    model, other, pictures = net(), net(3), torch.rand(11, 3, 20, 20)
    for network in (model, other):
        network.eval()(pictures[:, :, :16, :16])
    offsets = window_offsets(11, 4, 3, seed=5, protocol=protocol, batch_size=4)
    model.train()
    found = compare({"a": model, "b": other}, batches(pictures, 4), offsets, 16)
    assert model.training
    assert found.complete
    assert found.pictures.tolist() == list(range(11))
    for network, answers in zip((model, other), found.answers, strict=True):
        expected = shifted_answers(network, pictures, 16, rounds=3, seed=5, batch_size=4, protocol=protocol)
        assert torch.equal(answers.windows, expected)
        middle = logits(network, pictures[:, :, 2:18, 2:18])
        assert torch.equal(answers.middle, middle.topk(min(5, middle.shape[1])).indices)
    assert [answers.classes for answers in found.answers] == [7, 3]


def test_pictures_that_are_missing_do_not_move_the_windows_of_others() -> None:
    model, pictures = net().eval(), torch.rand(6, 3, 20, 20)
    model(pictures[:, :, :16, :16])
    offsets = window_offsets(6, 4, 2, seed=0)
    whole = compare({"a": model}, batches(pictures, 3), offsets, 16)
    some = torch.tensor([1, 2, 5])
    nothing = torch.tensor([], dtype=torch.long)
    part = compare({"a": model}, [(nothing, pictures[:0]), (some, pictures[some])], offsets, 16)
    assert torch.equal(part.answers[0].windows, whole.answers[0].windows[some])
    assert torch.equal(part.pictures, some)


def test_what_was_found_before_an_interruption_is_kept() -> None:
    model, pictures = net().eval(), torch.rand(8, 3, 20, 20)
    model(pictures[:, :, :16, :16])

    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield from list(batches(pictures, 4))[:1]
        raise KeyboardInterrupt

    found = compare({"a": model}, interrupted(), window_offsets(8, 4, 1, seed=0), 16)
    assert not found.complete
    assert found.pictures.tolist() == [0, 1, 2, 3]


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scores = x.mean((2, 3))
        scores[2] = float("nan")
        return scores


def test_what_gives_no_classes_is_refused() -> None:
    pictures, offsets = torch.rand(4, 3, 20, 20), window_offsets(4, 4, 1, seed=0)
    with pytest.raises(NotFiniteError, match="x gives values that are not finite for picture 2") as caught:
        compare({"x": NotANumber()}, batches(pictures, 4), offsets, 16)
    assert (caught.value.name, caught.value.picture) == ("x", 2)
    with pytest.raises(ArgumentError, match=r"x must give a row of classes for each picture; for 4 it gave \[4, 3, 16"):
        compare({"x": nn.Identity()}, batches(pictures, 4), offsets, 16)
    with pytest.raises(ArgumentError, match=r"y does not run on pictures of 3x16x16: .* \(--input-size"):
        compare({"y": nn.Linear(3, 3)}, batches(pictures, 4), offsets, 16)
    with pytest.raises(ArgumentError, match="there are no pictures to measure on"):
        compare({"x": NotANumber()}, [], offsets, 16)
