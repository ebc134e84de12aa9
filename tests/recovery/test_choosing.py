"""The choice of a filter: the signals, the finalists, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blurify
from blurify.demo import load_demo
from blurify.errors import ArgumentError
from blurify.filters import Filter
from blurify.recovery import choosing
from blurify.recovery.choosing import choose, near_answers

CANDIDATES = (Filter("binomial", 3), Filter("halfband"), Filter("lanczos"))


@pytest.fixture(scope="module")
def found() -> Any:
    original, pictures, _ = load_demo()
    smooth = {each: blurify.antialias(original, filter=each, form="graph") for each in CANDIDATES}
    return choose(original, smooth, F.pad(pictures[:60], (4,) * 4), size=40)


def test_two_are_recovered_and_the_higher_one_is_taken(found: Any) -> None:
    measured = [trial for trial in found.trials if trial.agreement is not None]
    assert len(measured) == 2
    assert found.chosen.height == max(trial.height for trial in measured)
    cheap = sorted(found.trials, key=lambda trial: trial.error * trial.folded)
    assert {trial.filter for trial in measured} == {trial.filter for trial in cheap[:2]}
    assert found.recovered.pictures == 60
    assert {d.filter for d in found.carried.meta["blurify"].rewritten} == {found.filter.kind}


def test_it_says_what_it_took_and_why(found: Any) -> None:
    text = str(found)
    assert all(str(each) in text for each in CANDIDATES)
    assert text.splitlines()[-1].startswith(f"The filter is {found.filter}: of those recovered, its agreement (")
    assert json.dumps(found.chosen.filter)


def test_what_is_no_classifier_has_the_nearest_outputs() -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)).eval()
    smooth = {each: blurify.antialias(original, filter=each, form="graph") for each in CANDIDATES}
    made = choose(original, smooth, torch.rand(16, 1, 24, 24), size=20)
    assert all(trial.agreement is None for trial in made.trials)
    assert made.chosen.error * made.chosen.folded == min(trial.error * trial.folded for trial in made.trials)
    assert made.sentence().endswith("it has the lowest error and folding of those tried.")


def test_near_answers_are_of_windows_one_pixel_further() -> None:
    images = torch.zeros(1, 1, 3, 3)
    images[0, 0, 1, 1], images[0, 0, 1, 2], images[0, 0, 2, 1] = 0, 1, 2
    network = nn.Sequential(nn.Flatten(), _OneHot())
    assert near_answers(network, images, 1).tolist() == [[[0, 1], [0, 2]]]


class _OneHot(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.one_hot(x[:, 0].long(), 3).float()


def test_nothing_to_choose_among_is_refused() -> None:
    original, pictures, _ = load_demo()
    smooth = {Filter(): blurify.antialias(original, form="graph")}
    for candidates, size in (({}, 32), (smooth, pictures.shape[-1])):
        with pytest.raises(ArgumentError, match="takes candidates, and images larger than what the networks take"):
            choose(original, candidates, pictures[:8], size=size)


def test_the_list_moves_no_grid() -> None:
    assert all(len(each.taps(stride)) % 2 for each in choosing.CANDIDATES for stride in (2, 3, 4))
