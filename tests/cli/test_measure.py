"""`blurify measure`, on a real network and real pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import blurify
from blurify.cli import measuring
from blurify.demo import load_demo
from blurify.measure.consistency import agreement, shifted_answers
from blurify.measure.estimate import estimate

ALLOW = [
    *("--allow", "blurify.demo.classifier.DigitNet"),
    *("--allow", "blurify.demo.classifier.Block"),
    *("--allow", "blurify.graph_module.rebuild"),
]
SIZE = ["--input-size", "1,40,40", "--shift", 8, "--mean", "0", "--std", "1"]


@pytest.fixture
def digits(tmp_path: Path) -> tuple[nn.Module, torch.Tensor]:
    """Forty digits in a folder a class, as 48x48 pictures; the demo's classifier in net.pt, converted in smooth.pt."""
    model, pictures, labels = load_demo()
    frames = torch.nn.functional.pad(pictures[:40], (4, 4, 4, 4))
    for number, (picture, label) in enumerate(zip(frames, labels, strict=False)):
        folder = tmp_path / "digits" / str(int(label))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (picture[0] * 255).round().to(torch.uint8)
        Image.frombytes("L", (48, 48), pixels.numpy().tobytes()).save(folder / f"{number:02}.png")
    for digit in range(10):
        (tmp_path / "digits" / str(digit)).mkdir(exist_ok=True)
    torch.save(model, tmp_path / "net.pt")
    torch.save(blurify.antialias(model), tmp_path / "smooth.pt")
    # In the order of the paths, which is that of the classes.
    order = sorted(range(40), key=lambda i: (int(labels[i]), i))
    return model, frames[order]


def test_two_models_on_digits(run, digits: tuple[nn.Module, torch.Tensor]) -> None:
    result = run("measure", "net.pt", "smooth.pt", *ALLOW, "--images", "digits", "--labels", *SIZE, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    model, pictures = digits
    before = agreement(shifted_answers(model, pictures, 40))
    after = agreement(shifted_answers(blurify.antialias(model), pictures, 40))
    for figure, scores in (
        (found["consistency"], before),
        (found["other"]["consistency"], after),
        (found["difference"]["consistency"], after - before),
    ):
        expected = estimate(scores)
        assert figure["percent"] == pytest.approx(expected.percent)
        assert (figure["low"], figure["high"]) == pytest.approx((expected.low, expected.high))
        assert figure["pictures"] == 40
    assert found["accuracy"]["percent"] > 90
    assert 0 < found["agreement"]["percent"] <= 100
    assert (found["model"], found["other"]["model"]) == ("net.pt", "smooth.pt")
    assert (found["seed"], found["protocol"], found["complete"], found["skipped"]) == (0, "picture", True, [])


def test_the_table(run, digits: tuple[nn.Module, torch.Tensor]) -> None:
    result = run("measure", "net.pt", "smooth.pt", *ALLOW, "--images", "digits", "--labels", *SIZE, "--seed", 3)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["net.pt", "smooth.pt", "difference"]
    assert [line.split()[0] for line in lines[1:4]] == ["consistency", "accuracy", "top-5"]
    assert lines[4].startswith("both say the same of ")
    assert lines[5] == "40 pictures of digits, 5 pairs of windows of 40 in 48 pixels each"
    assert lines[6] == "protocol picture, seed 3, mean 0, std 1"
    assert len(lines) == 7


def test_one_model_without_labels_and_pictures_that_cannot_be_read(run, digits, tmp_path: Path) -> None:
    (tmp_path / "digits" / "3" / "broken.png").write_bytes(b"no picture")
    arguments = (
        "measure",
        "net.pt",
        *ALLOW,
        "--images",
        "digits",
        *SIZE,
        "--batch-size",
        7,
        "--protocol",
        "zhang-batch",
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["net.pt", "consistency"]
    assert lines[2].startswith("40 pictures of digits, ")
    assert lines[-2] == "1 skipped:"
    assert lines[-1].startswith("  digits/3/broken.png cannot be read: ")
    strict = run(*arguments, "--strict")
    assert strict.exit_code == 1
    assert "broken.png cannot be read" in strict.stderr
    assert strict.stderr.endswith("; leave --strict out to skip it.\n")


def test_workers_and_batches_change_nothing(run, digits) -> None:
    arguments = ("measure", "net.pt", *ALLOW, "--images", "digits", "--labels", *SIZE, "--json")
    outputs = {run(*arguments, *more).stdout for more in ((), ("--workers", 2), ("--batch-size", 3))}
    assert len(outputs) == 1


def test_an_interruption_prints_what_there_is(run, digits, monkeypatch: pytest.MonkeyPatch) -> None:
    original = measuring._batches

    def interrupted(*arguments):
        yield next(original(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "_batches", interrupted)
    result = run("measure", "net.pt", *ALLOW, "--images", "digits", *SIZE, "--batch-size", 10)
    assert result.exit_code == 0, result.output
    assert "10 pictures of digits (partial: interrupted), " in result.stdout


REFUSED = {
    "no folder": (["net.pt", "--images", "nowhere"], "nowhere is not a folder; give one that holds pictures."),
    "no pictures": (
        ["net.pt", "--images", "digits/none"],
        "there are no pictures in digits/none; these are looked for",
    ),
    "other classes": (
        ["timm:test_resnet", "--images", "digits", "--labels", "--input-size", "3,40,40"],
        "the folder has 10 subfolders and the model 1000 classes; give one subfolder a class, or leave --labels out.",
    ),
    "two kinds of models": (
        ["net.pt", "timm:test_resnet?in_chans=1", "--images", "digits", *SIZE],
        "the models have 10 and 1000 classes, so they cannot be compared; give two models of the same classes",
    ),
    "another size": (
        ["timm:test_vit", "--images", "digits", "--input-size", "3,40,40"],
        "timm:test_vit does not run on pictures of 3x40x40: ",
    ),
    "not square": (
        ["net.pt", "--images", "digits", "--input-size", "1,40,32"],
        "windows are square, and an input of 1x40x32",
    ),
    "no device": (["net.pt", "--images", "digits", "--device", "nothing", *SIZE], "--device nothing cannot be used: "),
    "a mean too many": (
        ["net.pt", "--images", "digits", "--mean", "0,0,0"],
        "mean must have one number for each of 1 channels",
    ),
    "nothing readable": (
        ["net.pt", "--images", "digits/broken", *SIZE],
        "none of the 1 pictures can be read; the first: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_one_sentence(case: str, run, digits, tmp_path: Path) -> None:
    if case == "no pictures":
        (tmp_path / "digits" / "none").mkdir()
    if case == "nothing readable":
        (tmp_path / "digits" / "broken").mkdir()
        (tmp_path / "digits" / "broken" / "a.png").write_bytes(b"")
    arguments, sentence = REFUSED[case]
    result = run("measure", *arguments, *ALLOW)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_values_that_are_not_finite_are_named_with_the_picture(run, digits, tmp_path: Path) -> None:
    model, _ = digits
    model.fc.bias.data[3] = float("nan")
    torch.save(model, tmp_path / "nan.pt")
    result = run("measure", "nan.pt", *ALLOW, "--images", "digits", *SIZE)
    assert result.exit_code == 1
    assert result.stderr == "Error: nan.pt gives values that are not finite for digits/0/03.png.\n"


def test_what_is_not_understood(run) -> None:
    for arguments in (
        ["net.pt"],
        ["net.pt", "--images", "x", "--mean", "a"],
        ["net.pt", "--images", "x", "--shift", 0],
    ):
        assert run("measure", "net.pt", *arguments).exit_code == 2
