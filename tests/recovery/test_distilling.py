"""Training that is interrupted goes on to the same weights, ends when nothing is gained, and may run in bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import blurify
from blurify import demo
from blurify.errors import FileError
from blurify.recovery import distilling
from blurify.recovery.distilling import Schedule, checkpoint_of, distill
from blurify.recovery.recovering import outputs, twins

Error = Callable[[], float]


@pytest.fixture
def pictures() -> Tensor:
    return demo.load_demo()[1][:16]


def networks(pictures: Tensor) -> tuple[nn.Module, nn.Module, Error]:
    """A teacher, a student, and how far they are apart."""
    original = demo.load_demo()[0]
    teacher, student = twins(original, blurify.antialias(original, 4), pictures)
    wanted = outputs(teacher.eval(), pictures, 24).detach()
    return teacher, student.eval(), lambda: float((outputs(student, pictures, 24).detach() - wanted).square().mean())


def interrupted(error: Error, after: int) -> Error:
    """The error, but for an interruption when it is asked for once more than so often."""
    asked = []

    def raising() -> float:
        asked.append(None)
        if len(asked) > after:
            raise KeyboardInterrupt
        return error()

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


def test_it_ends_when_nothing_is_gained(pictures: Tensor) -> None:
    teacher, student, _ = networks(pictures)
    before = values(student)
    told = iter([1.0, 2.0, 3.0, 0.5])
    errors = distill(teacher, student, pictures, Schedule(epochs=3, patience=2, batch_size=24), lambda: next(told))
    assert errors == [2.0, 3.0]
    assert all(torch.equal(one, other) for one, other in zip(before, values(student), strict=True))


def test_a_file_of_something_else_is_refused(pictures: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.training"
    torch.save({"errors": []}, path)
    teacher, student, error = networks(pictures)
    with pytest.raises(FileError, match="is no checkpoint of this network's training; remove it to begin anew"):
        distill(teacher, student, pictures, Schedule(), error, path)


def test_recovering_keeps_its_training_beside_its_journal(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "out.journal"
    monkeypatch.setattr(distilling.Schedule, "epochs", 1)
    original = demo.load_demo()[0]
    blurify.recover(original, blurify.antialias(original, 4), pictures, method="distill", journal=journal)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_of(journal).name]


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
