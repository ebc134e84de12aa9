"""Models on the same windows, a batch at a time: as the functions on whole tensors count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.compare import Classes, EvaluatedModel, NotFiniteError, compare, joined
from blurify.measure.consistency import (
    agreement,
    diagonal_sweep,
    divergence,
    logits,
    rolled_answers,
    shifted_answers,
    soft_change,
    window_offsets,
)
from blurify.measure.dense import mean_iou, psnr, shifted_maps
from blurify.measure.probes import Diagonal, Maps, Rolled, Windows, middle
from blurify.measure.shifts import crop, draw_offsets


def net(classes: int = 7, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))


def batches(pictures: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for numbers in torch.arange(len(pictures)).split(size):
        yield numbers, pictures[numbers]


@pytest.mark.parametrize("protocol", ["picture", "zhang-batch"])
def test_equals_the_functions_on_whole_tensors(protocol: str) -> None:
    model, other, pictures = net(), net(7, seed=1), torch.rand(11, 3, 20, 20)
    for network in (model, other):
        network.eval()(pictures[:, :, :16, :16])
    offsets = window_offsets(11, 4, 3, seed=5, protocol=protocol, batch_size=4)
    model.train()
    found = compare(
        [EvaluatedModel("a", model), EvaluatedModel("b", other)], [Windows(offsets, 16)], batches(pictures, 4)
    )
    assert model.training
    assert found.complete
    assert found.pictures.tolist() == list(range(11))
    for network, answers in zip((model, other), found.answers, strict=True):
        expected = shifted_answers(network, pictures, 16, rounds=3, seed=5, batch_size=4, protocol=protocol)
        assert torch.equal(answers["answers"], expected)
        middle = logits(network, pictures[:, :, 2:18, 2:18])
        assert torch.equal(answers["middle"], middle.topk(min(5, middle.shape[1])).indices)


def test_pictures_that_are_missing_do_not_move_the_windows_of_others() -> None:
    model, pictures = net().eval(), torch.rand(6, 3, 20, 20)
    model(pictures[:, :, :16, :16])
    offsets = window_offsets(6, 4, 2, seed=0)
    whole = compare([EvaluatedModel("a", model)], [Windows(offsets, 16)], batches(pictures, 3))
    some = torch.tensor([1, 2, 5])
    nothing = torch.tensor([], dtype=torch.long)
    part = compare(
        [EvaluatedModel("a", model)], [Windows(offsets, 16)], [(nothing, pictures[:0]), (some, pictures[some])]
    )
    assert torch.equal(part.answers[0]["answers"], whole.answers[0]["answers"][some])
    assert torch.equal(part.pictures, some)


def test_what_was_found_before_an_interruption_is_kept() -> None:
    model, pictures = net().eval(), torch.rand(8, 3, 20, 20)
    model(pictures[:, :, :16, :16])

    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield from list(batches(pictures, 4))[:1]
        raise KeyboardInterrupt

    found = compare([EvaluatedModel("a", model)], [Windows(window_offsets(8, 4, 1, seed=0), 16)], interrupted())
    assert not found.complete
    assert found.pictures.tolist() == [0, 1, 2, 3]


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scores = x.mean((2, 3))
        scores[2] = float("nan")
        return scores


def test_what_gives_no_classes_is_refused() -> None:
    pictures, offsets = torch.rand(4, 3, 20, 20), window_offsets(4, 4, 1, seed=0)
    with pytest.raises(NotFiniteError, match="x gives values that are not finite for image 2") as caught:
        compare([EvaluatedModel("x", NotANumber())], [Windows(offsets, 16)], batches(pictures, 4))
    assert (caught.value.name, caught.value.picture) == ("x", 2)
    with pytest.raises(ArgumentError, match=r"x must give a row of classes for each image; for 4 it gave \[4, 3, 16"):
        compare([EvaluatedModel("x", nn.Identity())], [Windows(offsets, 16)], batches(pictures, 4))
    with pytest.raises(ArgumentError, match=r"y does not run on images of 3x16x16: .* \(--input-size"):
        compare([EvaluatedModel("y", nn.Linear(3, 3))], [Windows(offsets, 16)], batches(pictures, 4))
    with pytest.raises(ArgumentError, match="There are no images to measure on"):
        compare([EvaluatedModel("x", NotANumber())], [Windows(offsets, 16)], [])


def test_every_probe_equals_its_function_on_whole_tensors() -> None:
    model, pictures = net().eval(), torch.rand(6, 3, 20, 20)
    model(pictures[:, :, :16, :16])
    offsets = window_offsets(6, 4, 2, seed=0)
    generator = torch.Generator().manual_seed(3)
    shifts = [draw_offsets(6, 4, generator) for _ in range(4)]
    labels = torch.arange(6)
    probes = [Windows(offsets, 16), Rolled(shifts, 16), Diagonal(16, labels)]
    (rows,) = compare([EvaluatedModel("a", model)], probes, batches(pictures, 4)).answers
    assert torch.equal(rows["rolled"], rolled_answers(model, middle(pictures, 16), 4, rounds=2, seed=3))
    sweep = diagonal_sweep(model, pictures, 16)
    assert torch.allclose(rows["sweep"], sweep[torch.arange(6), :, labels].double(), atol=1e-6)
    (own,) = compare([EvaluatedModel("a", model)], [Diagonal(16)], batches(pictures, 4)).answers
    first = sweep[:, 0].argmax(1)
    assert torch.allclose(own["sweep"], sweep[torch.arange(6), :, first].double(), atol=1e-6)
    windows = [logits(model, crop(pictures, drawn, 16)) for drawn in offsets]
    for name, function in (("change", soft_change), ("divergence", divergence)):
        expected = (function(windows[0], windows[1]) + function(windows[2], windows[3])) / 2
        assert torch.allclose(rows[name], expected, atol=1e-6)
    assert (rows["change"] > 0).all()


def test_maps_equal_the_functions_on_whole_tensors() -> None:
    torch.manual_seed(0)
    model, pictures = nn.Conv2d(3, 5, 3, padding=1), torch.rand(6, 3, 20, 20)
    offsets = window_offsets(6, 4, 1, seed=0)
    pairs = shifted_maps(model, pictures, 16)
    for data_range, name, score in ((None, "iou", mean_iou(pairs)), (2.0, "psnr", psnr(pairs, 2.0))):
        asked = EvaluatedModel("a", model, dense=True)
        (rows,) = compare([asked], [Maps(offsets, 16, data_range)], batches(pictures, 4)).answers
        assert torch.allclose(rows[name][:, 0], score, atol=1e-5)
        assert 0 < rows[name].mean() < 100
    same = compare([EvaluatedModel("a", nn.Identity(), dense=True)], [Maps(offsets, 16, 1.0)], batches(pictures, 4))
    assert (same.answers[0]["psnr"] == 100).all()


class Several(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"aux": x[:, :1], "out": x}


def test_the_main_of_several_outputs_counts() -> None:
    pictures = torch.rand(2, 3, 20, 20)
    asked = EvaluatedModel("a", Several(), dense=True)
    found = compare([asked], [Maps(window_offsets(2, 4, 1, seed=0), 16)], batches(pictures, 2))
    assert asked.channels == 3
    assert torch.equal(found.answers[0]["iou"], torch.ones(2, 1, dtype=torch.float64))


def test_classes_must_be_the_models() -> None:
    model, pictures = net().eval(), torch.rand(4, 3, 16, 16)
    model(pictures)
    probes = [Windows([torch.zeros(4, 2, dtype=torch.long)] * 2, 16)]
    cases = {
        Classes(10, True): "The labels have 10 classes and the model 7; give one subfolder",
        Classes(3, True): "The labels have 3 classes and the model 7;",
        Classes(8, False): "There is a label 7, and the model has 7 classes, counted from 0;",
    }
    for classes, message in cases.items():
        with pytest.raises(ArgumentError, match=message):
            compare([EvaluatedModel("a", model)], probes, batches(pictures, 4), classes)
    compare([EvaluatedModel("a", model)], probes, batches(pictures, 4), Classes(3, False))
    other = net(5).eval()
    other(pictures)
    with pytest.raises(ArgumentError, match="The models have 7 and 5 classes, so they cannot be compared"):
        compare([EvaluatedModel("a", model), EvaluatedModel("b", other)], probes, batches(pictures, 4))


def test_shares_come_together_in_order() -> None:
    model, pictures = net().eval(), torch.rand(8, 3, 20, 20)
    model(pictures[:, :, :16, :16])
    probes = [Windows(window_offsets(8, 4, 2, seed=0), 16)]
    every = list(batches(pictures, 2))
    whole = compare([EvaluatedModel("a", model)], probes, every)
    parts = [compare([EvaluatedModel("a", model)], probes, every[rank::2]) for rank in range(2)]
    again = joined(parts[::-1])
    assert torch.equal(again.pictures, whole.pictures)
    assert all(torch.equal(again.answers[0][name], column) for name, column in whole.answers[0].items())
    assert agreement(again.answers[0]["answers"]).shape == (8,)


def test_half_precision_and_another_layout_say_nearly_the_same() -> None:
    model, pictures = net().eval(), torch.rand(4, 3, 20, 20)
    model(pictures[:, :, :16, :16])
    probes = [Windows(window_offsets(4, 4, 2, seed=0), 16)]
    seen = []
    handle = model[0].register_forward_hook(lambda _, args, output: seen.append((args[0].stride(1), output.dtype)))
    answers = [
        compare([EvaluatedModel("a", model, amp=half, channels_last=last)], probes, batches(pictures, 4)).answers[0][
            "change"
        ]
        for half, last in ((False, False), (True, False), (False, True))
    ]
    handle.remove()
    assert seen[:: len(seen) // 3] == [(256, torch.float32), (256, torch.bfloat16), (1, torch.float32)]
    for change in answers[1:]:
        assert torch.allclose(change, answers[0], atol=0.02)
