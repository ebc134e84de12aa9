"""Training that is interrupted goes on to the same weights, ends when nothing is gained, and may run in bfloat16."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import blurify
from blurify import demo
from blurify.errors import ArgumentError, ArgumentTypeError, FileError
from blurify.recovery import distilling
from blurify.recovery import recover as recovering
from blurify.recovery.distilling import Schedule, distill
from blurify.recovery.judging import Judge, Score
from blurify.recovery.recover import twins

Scoring = Callable[[], Score]


@pytest.fixture
def pictures() -> Tensor:
    return demo.load_demo()[1][:16]


def networks(pictures: Tensor) -> tuple[nn.Module, nn.Module, Scoring]:
    """A teacher, a student, and how far they are apart."""
    original = demo.load_demo()[0]
    teacher, student = twins(original, blurify.antialias(original, 4), pictures)
    judge = Judge(teacher.eval(), pictures, 24)
    return teacher, student.eval(), lambda: judge.score(student)


def interrupted(score: Scoring, after: int) -> Scoring:
    """The score, but for an interruption when it is asked for once more than so often."""
    asked = []

    def raising() -> Score:
        asked.append(None)
        if len(asked) > after:
            raise KeyboardInterrupt
        return score()

    return raising


def values(network: nn.Module) -> list[Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def test_an_interrupted_training_goes_on_to_the_same_weights(pictures: Tensor, tmp_path: Path) -> None:
    schedule, path = Schedule(epochs=3, batch_size=8), tmp_path / "net.training"
    teacher, student, error = networks(pictures)
    errors = distill(teacher, student, pictures, schedule, error)
    assert len(errors) == 3
    teacher, again, error = networks(pictures)
    start = error()
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, again, pictures, schedule, interrupted(error, 3), path)
    teacher, again, error = networks(pictures)
    assert distill(teacher, again, pictures, schedule, error, path) == errors
    assert min(errors) < start
    assert all(torch.equal(one, other) for one, other in zip(values(student), values(again), strict=True))
    # What is done is not done again.
    before = values(again)
    assert distill(teacher, again, pictures, schedule, interrupted(error, 0), path) == errors
    assert all(torch.equal(one, other) for one, other in zip(before, values(again), strict=True))


@pytest.mark.parametrize(("count", "rate"), [(16, 9e-6), (10**9, 1e-3)], ids=["few", "many"])
def test_the_rate_goes_by_the_number_of_steps(
    count: int, rate: float, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(distilling, "Pace", lambda weights, rate, steps: begun.append((rate, steps)) or stop())

    class Many(list[Tensor]):
        device = pictures.device

        def __len__(self) -> int:
            return count

    def stop() -> None:
        raise KeyboardInterrupt

    teacher, student, score = networks(pictures)
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, student, Many(), Schedule(epochs=9, batch_size=8), score)
    assert begun == [(pytest.approx(rate), 9 * -(-count // 8))]


def test_what_comes_down_from_above_the_start_goes_on(pictures: Tensor) -> None:
    teacher, student, _ = networks(pictures)
    told = iter(Score(0, 0, error) for error in (1.0, 3.0, 2.0, 0.5, 0.7, 0.7, 0.1))
    schedule = Schedule(epochs=6, patience=2, batch_size=24)
    errors = distill(teacher, student, pictures, schedule, lambda: next(told))
    assert [score.error for score in errors] == [3.0, 2.0, 0.5, 0.7, 0.7]


def test_features_count_by_their_weight(pictures: Tensor) -> None:
    teacher, student, _ = networks(pictures)
    with distilling.listening(teacher) as theirs, distilling.listening(student) as mine:
        losses = [
            float(distilling.Loss(teacher, student, theirs, mine, Schedule(features=weight))(pictures, None).detach())
            for weight in (0.0, 1.0, 3.0)
        ]
        apart = sum(float(distilling.relative(own, theirs[path]).detach()) for path, own in mine.items())
    assert losses[1] - losses[0] == pytest.approx(apart, rel=1e-4)
    assert losses[2] - losses[0] == pytest.approx(3 * apart, rel=1e-4)
    assert apart > 0.01


def test_what_recovering_asks_of_training(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Schedule] = []
    monkeypatch.setattr(recovering, "distill", lambda *args: seen.append(args[3]) or [])
    original = demo.load_demo()[0]
    converted = blurify.antialias(original, 4)
    blurify.recover(original, converted, pictures, method="distill", batch_size=8, seed=3)
    blurify.recover(original, converted, pictures, method="all", epochs=7, rate=0.5)
    assert seen == [Schedule(batch_size=8, seed=3), Schedule(epochs=7, rate=0.5, features=0.0)]


def test_a_training_of_other_epochs_is_not_gone_on_with(pictures: Tensor, tmp_path: Path) -> None:
    original = demo.load_demo()[0]
    converted, checkpoint = blurify.antialias(original, 4), tmp_path / "training"
    blurify.recover(original, converted, pictures, method="distill", epochs=1, checkpoint=checkpoint)
    with pytest.raises(FileError, match=r"was left by a recovery with other weights, .*, epochs or rate"):
        blurify.recover(original, converted, pictures, method="distill", epochs=2, checkpoint=checkpoint)


def test_pictures_move_by_a_share_of_their_side() -> None:
    ramp = torch.arange(64.0).expand(200, 1, 56, 64)
    moved = distilling.shift(ramp, 1 / 28, torch.Generator().manual_seed(0))
    assert moved.shape == ramp.shape
    assert (moved - ramp)[..., 8:-8].unique().tolist() == [-2, -1, 0, 1, 2]
    assert torch.equal(distilling.shift(ramp, 0.001, torch.Generator()), ramp)
    rows = torch.rand(4, 8)
    assert torch.equal(distilling.shift(rows, 0.5, torch.Generator()), rows)


def test_it_ends_when_nothing_is_gained(pictures: Tensor) -> None:
    teacher, student, _ = networks(pictures)
    before = values(student)
    told = iter(Score(0, 0, error) for error in (1.0, 2.0, 3.0, 0.5))
    errors = distill(teacher, student, pictures, Schedule(epochs=3, patience=2, batch_size=24), lambda: next(told))
    assert [score.error for score in errors] == [2.0, 3.0]
    assert all(torch.equal(one, other) for one, other in zip(before, values(student), strict=True))


def test_answers_are_judged_before_errors(pictures: Tensor) -> None:
    teacher, student, _ = networks(pictures)
    told = iter([Score(0, 0.5, 1.0), Score(0, 0.25, 3.0), Score(0, 0.25, 2.0), Score(0, 0.5, 0.1)])
    kept = []

    def score() -> Score:
        kept.append(values(student))
        return next(told)

    assert len(distill(teacher, student, pictures, Schedule(epochs=3, batch_size=8), score)) == 3
    # The second epoch agrees as often as the first, and is nearer.
    assert all(torch.equal(one, other) for one, other in zip(kept[2], values(student), strict=True))


def test_values_that_are_not_finite_end_it(pictures: Tensor) -> None:
    teacher, student, _ = networks(pictures)
    before = values(student)
    told = iter([Score(0, 0.5, 1.0), Score(0, 0.1, math.nan)])
    assert len(distill(teacher, student, pictures, Schedule(epochs=3, batch_size=8), lambda: next(told))) == 1
    assert all(torch.equal(one, other) for one, other in zip(before, values(student), strict=True))


def test_what_a_score_counts(pictures: Tensor) -> None:
    teacher = demo.load_demo()[0].eval()
    answers = teacher(pictures).argmax(1)
    labels = torch.where(torch.arange(16) < 4, (answers + 1) % 10, answers)
    judge = Judge(teacher, pictures, 8, labels)
    assert judge.score(teacher) == (0.25, 0, 0)
    # Two classes in each other's place are other answers.
    swapped = nn.Sequential(teacher, Swapped(answers[0].item())).eval()
    wrong, differing, error = judge.score(swapped)
    assert differing == float((answers == answers[0]).double().mean()) > 0
    assert (wrong > 0, error > 0) == (True, True)
    # What gives no classes has an error alone.
    whole = nn.Sequential(nn.Conv2d(1, 2, 3))
    assert Judge(whole, pictures, 8).score(nn.Sequential(nn.Conv2d(1, 2, 3)))[:2] == (0, 0)


class Swapped(nn.Module):
    """A class and the next in each other's place."""

    def __init__(self, one: int) -> None:
        super().__init__()
        self.order = list(range(10))
        self.order[one], self.order[(one + 1) % 10] = (one + 1) % 10, one

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.order]


def test_labels_are_trained_on_too(pictures: Tensor) -> None:
    labels = (demo.load_demo()[2][:16] + 1) % 10
    missed = []
    for given in (None, labels):
        teacher, student, score = networks(pictures)
        distill(teacher, student, pictures, Schedule(epochs=1, batch_size=8, rate=1e-3), rising(score), labels=given)
        missed.append(float(nn.functional.cross_entropy(student(pictures), labels).detach()))
    assert missed[1] < missed[0] - 0.5


def rising(score: Scoring) -> Scoring:
    """As if every score were better than the one before."""
    told = iter(range(9, 0, -1))
    return lambda: score()._replace(wrong=next(told))


def test_held_out_labels_say_what_is_kept(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    original, digits, labels = demo.load_demo()
    seen = []

    def trained(*args: object) -> list[Score]:
        seen.append(args[6])
        return []

    monkeypatch.setattr(recovering, "distill", trained)
    blurify.recover(original, blurify.antialias(original, 4), digits[:20], labels=labels[:20].int(), method="distill")
    assert torch.equal(seen[0], labels[:16])


@pytest.mark.parametrize(
    ("labels", "method", "kind", "said"),
    [
        (torch.zeros(15, dtype=torch.int64), "distill", ArgumentError, "one for each of the 16 images, got 15"),
        (torch.full((16,), 10), "all", ArgumentError, "from 0 to 9, the networks' classes, got 10"),
        (torch.full((16,), -1), "distill", ArgumentError, "from 0 to 9, the networks' classes, got -1"),
        (torch.zeros(16), "distill", ArgumentTypeError, r"an integer tensor \[N\], .*, got torch.float32 of 1 axes"),
        (torch.zeros(16, 1).int(), "distill", ArgumentTypeError, "got torch.int32 of 2 axes"),
        ([0] * 16, "distill", ArgumentTypeError, "got list"),
        (torch.zeros(16).int(), "lstsq", ArgumentError, "trained on by the methods distill and all, not by lstsq"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused(
    labels: object, method: str, kind: type[Exception], said: str, pictures: Tensor
) -> None:
    original = demo.load_demo()[0]
    with pytest.raises(kind, match=said):
        blurify.recover(original, blurify.antialias(original, 4), pictures, labels=labels, method=method)


def test_labels_need_classes(pictures: Tensor) -> None:
    original = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)).eval()
    with pytest.raises(ArgumentError, match="for networks that give one row of class scores, and these do not"):
        blurify.recover(original, blurify.antialias(original), pictures, labels=torch.zeros(16).int(), method="distill")


def test_a_file_of_something_else_is_refused(pictures: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.training"
    torch.save({"errors": []}, path)
    teacher, student, error = networks(pictures)
    with pytest.raises(FileError, match="is no checkpoint of this network's training; remove it to start again"):
        distill(teacher, student, pictures, Schedule(), error, path)


def test_recovering_keeps_its_training(pictures: Tensor, tmp_path: Path) -> None:
    checkpoint = tmp_path / "out.training"
    original = demo.load_demo()[0]
    blurify.recover(
        original, blurify.antialias(original, 4), pictures, method="distill", epochs=1, checkpoint=checkpoint
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.training"]


def test_bfloat16_trains_too(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student, error = networks(pictures)
    exact = copy.deepcopy(student)
    before = error()
    monkeypatch.setattr(distilling, "has_bfloat16", lambda device: True)
    errors = distill(teacher, student, pictures, Schedule(epochs=1, batch_size=8), error)
    assert errors[0] < before
    monkeypatch.undo()
    distill(teacher, exact, pictures, Schedule(epochs=1, batch_size=8), error)
    # The same training, but not to the last bit.
    assert any(not torch.equal(one, other) for one, other in zip(values(student), values(exact), strict=True))
    assert all(value.dtype == other.dtype for value, other in zip(values(student), values(exact), strict=True))
