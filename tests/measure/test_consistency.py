"""The metric on models whose consistency is known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.consistency import (
    accuracy,
    agreement,
    correctness,
    diagonal_sweep,
    divergence,
    logits,
    rolled_answers,
    shifted_answers,
    soft_change,
    variation,
)
from blurify.measure.shifts import crop, draw_offsets


class Pixel(nn.Module):
    """Class 1 if the window's first pixel is set, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        lit = x[:, 0, 0, 0]
        return torch.stack([1 - lit, lit], dim=1)


class Sum(nn.Module):
    """Class 1 if anything in the window is set: blind to where."""

    def forward(self, x: Tensor) -> Tensor:
        lit = x.amax((1, 2, 3))
        return torch.stack([0.5 - lit, lit], dim=1)


def dots(count: int, size: int = 4) -> Tensor:
    """Pictures with one lit pixel, at (1, 1): the first pixel of a 2 x 2 window at one offset of nine."""
    pictures = torch.zeros(count, 1, size, size)
    pictures[:, :, 1, 1] = 1
    return pictures


def test_a_model_blind_to_shifts_is_fully_consistent() -> None:
    assert agreement(shifted_answers(Sum(), dots(20), size=3)).tolist() == [1.0] * 20


def test_a_model_of_one_pixel_agrees_as_often_as_the_arithmetic_says() -> None:
    # Lit at one of the 9 offsets: two draws agree with probability (1/9)^2 + (8/9)^2 = 65/81 = 0.802.
    scores = agreement(shifted_answers(Pixel(), dots(4000), size=2, rounds=5))
    assert float(scores.mean()) == pytest.approx(65 / 81, abs=0.01)
    assert set(scores.tolist()) <= {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}


def test_equals_the_count_by_hand() -> None:
    pictures, generator = dots(12), torch.Generator().manual_seed(5)
    lit = [(draw_offsets(12, 2, generator) == 1).all(1) for _ in range(4)]
    expected = ((lit[0] == lit[1]).double() + (lit[2] == lit[3]).double()) / 2
    assert torch.equal(agreement(shifted_answers(Pixel(), pictures, size=2, rounds=2, seed=5)), expected)
    assert expected.min() < 1


def test_offsets_are_drawn_per_picture() -> None:
    # With one offset for the whole batch, twin images would score alike.
    assert len(shifted_answers(Pixel(), dots(50), size=2, rounds=1)[:, 0, 0].unique()) == 2


def test_shifted_accuracy_counts_windows_that_get_the_label() -> None:
    labels = torch.ones(4000, dtype=torch.int64)
    answers = shifted_answers(Pixel(), dots(4000), size=2)
    assert float(correctness(answers, labels).mean()) == pytest.approx(1 / 9, abs=0.01)
    assert float(correctness(answers, 1 - labels).mean()) == pytest.approx(8 / 9, abs=0.01)


def test_accuracy_compares_with_labels() -> None:
    windows = crop(dots(3), torch.tensor([[1, 1], [0, 0], [1, 1]]), 2)
    assert accuracy(Pixel(), windows, torch.tensor([1, 1, 0])).tolist() == [1.0, 0.0, 0.0]


def test_the_sweep_follows_the_diagonal() -> None:
    probabilities = diagonal_sweep(Pixel(), dots(2), size=2)
    assert probabilities.shape == (2, 3, 2)
    assert torch.allclose(probabilities.sum(-1), torch.ones(2, 3))
    assert probabilities.argmax(-1).tolist() == [[0, 1, 0]] * 2


def test_variation_is_the_way_travelled_by_the_true_class() -> None:
    sweep = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], [[0.5, 0.9], [0.5, 0.1], [0.5, 0.9]]])
    assert variation(sweep, torch.tensor([1, 0])).tolist() == [1.5, 0.0]
    assert variation(sweep, torch.tensor([0, 1])).tolist() == pytest.approx([1.5, 1.6])


def test_seeded_and_leaves_model_and_random_state_as_found() -> None:
    model = nn.Sequential(nn.Dropout(0.5), Pixel()).train()
    state = torch.get_rng_state()
    first, again, other = (shifted_answers(model, dots(30), size=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model[0].training


def test_batches_do_not_change_the_logits() -> None:
    pictures = torch.rand(7, 1, 2, 2)
    assert torch.equal(logits(Pixel(), pictures, batch_size=3), logits(Pixel(), pictures))


def test_refuses_a_window_that_cannot_shift() -> None:
    with pytest.raises(ArgumentError, match="window of 4 pixels fills the images"):
        shifted_answers(Pixel(), dots(2), size=4)


@pytest.mark.parametrize("rounds", [0, -1])
def test_refuses_no_rounds(rounds: int) -> None:
    with pytest.raises(ArgumentError, match=f"rounds must be at least 1, got {rounds}"):
        shifted_answers(Pixel(), dots(2), size=2, rounds=rounds)


def test_refuses_labels_of_another_count() -> None:
    with pytest.raises(ArgumentError, match=r"labels must be of shape \[2\], got \(3,\)"):
        accuracy(Pixel(), dots(2), torch.zeros(3).long())
    with pytest.raises(ArgumentError, match=r"labels must be of shape \[2\], got \(3,\)"):
        correctness(torch.zeros(2, 5, 2), torch.zeros(3).long())


def test_refuses_no_pictures() -> None:
    with pytest.raises(ArgumentError, match="no images"):
        logits(Pixel(), torch.zeros(0, 1, 2, 2))


def test_refuses_dense_outputs() -> None:
    with pytest.raises(ArgumentError, match=r"must give \[N, classes\]; for 2 images it gave \[2, 1, 4, 4\]"):
        logits(nn.Identity(), dots(2))


def test_a_batch_shares_its_offsets_in_the_published_protocol() -> None:
    pictures, generator = dots(10), torch.Generator().manual_seed(3)
    # Three batches of four, four and two; from 0 to one less than there is room for.
    drawn = [torch.randint(2, (2, 2), generator=generator) for _ in range(3)]
    expected = torch.stack([(drawn[i // 4] == 1).all(1).long() for i in range(10)])
    answers = shifted_answers(Pixel(), pictures, size=2, rounds=1, seed=3, batch_size=4, protocol="zhang-batch")
    assert torch.equal(answers[:, 0], expected)
    with pytest.raises(ArgumentError, match="protocol must be one of picture, zhang-batch, got 'zhang'"):
        shifted_answers(Pixel(), pictures, size=2, protocol="zhang")


def test_circular_shifts() -> None:
    assert agreement(rolled_answers(Sum(), dots(20), most=3)).tolist() == [1.0] * 20
    # Lit at (1, 1) of 4 x 4, and shifted by 0 to 3: at the first pixel for one shift of sixteen.
    scores = agreement(rolled_answers(Pixel(), dots(4000), most=3))
    assert float(scores.mean()) == pytest.approx((1 / 16) ** 2 + (15 / 16) ** 2, abs=0.01)
    for arguments in ({"most": 0}, {"most": 1, "rounds": 0}):
        with pytest.raises(ArgumentError, match="most and rounds must be at least 1"):
            rolled_answers(Sum(), dots(2), **arguments)
    with pytest.raises(ArgumentError, match="There are no images"):
        rolled_answers(Sum(), dots(0), most=3)


def test_soft_changes_by_hand() -> None:
    first, second = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert soft_change(first, second).tolist() == pytest.approx([0.5])
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert divergence(first, second).tolist() == pytest.approx([float(expected)])
    assert divergence(first, first).tolist() == [0.0]
