"""`blurify measure`, on a real network and real images."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import blurify
from blurify.cli import measure_run
from blurify.demo import load_demo
from blurify.measure.consistency import agreement, diagonal_sweep, rolled_answers, shifted_answers, variation
from blurify.measure.cost import cost
from blurify.measure.estimate import estimate

ALLOW = [
    *("--allow", "blurify.demo.classifier.DigitNet"),
    *("--allow", "blurify.demo.classifier.Block"),
]
SIZE = ["--input-size", "1,40,40", "--shift", 8, "--mean", "0", "--std", "1"]


@pytest.fixture
def digits(tmp_path: Path) -> tuple[nn.Module, torch.Tensor]:
    """Forty digits in a folder a class, as 48x48 images; the demo's classifier in net.pt, converted in smooth.pt."""
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
    names = ["consistency", "accuracy", "top-5 accuracy", "one-pixel consistency", "probability change", "divergence"]
    assert [line.partition("  ")[0] for line in lines[1:7]] == names
    assert lines[7].startswith("both predict the same for ")
    assert "; net.pt agrees with itself on " in lines[7]
    assert lines[7].endswith(" when the image moves by one pixel")
    assert lines[9].split() == ["net.pt", "smooth.pt", "ratio"]
    costs = ["GMAC", "parameters, M", "peak maps, MiB", "ms an image", "file, MB"]
    assert [line.partition("  ")[0] for line in lines[10:15]] == costs
    assert lines[16] == "40 images of digits, 5 pairs of windows of 40 in 48 pixels each"
    assert lines[17] == "protocol picture, seed 3, mean 0, std 1, bilinear"
    assert len(lines) == 18


def test_one_model_without_labels_and_pictures_that_cannot_be_read(run, digits, tmp_path: Path) -> None:
    (tmp_path / "digits" / "3" / "broken.png").write_bytes(b"no image")
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
        "--no-cost",
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["net.pt", "consistency"]
    assert lines[5].startswith("40 images of digits, ")
    assert lines[-2] == "1 skipped:"
    assert lines[-1].startswith("  digits/3/broken.png cannot be read: ")
    strict = run(*arguments, "--strict")
    assert strict.exit_code == 1
    assert "broken.png cannot be read" in strict.stderr
    assert strict.stderr.endswith("; remove --strict to skip it.\n")


def test_workers_and_batches_change_nothing(run, digits) -> None:
    arguments = ("measure", "net.pt", *ALLOW, "--images", "digits", "--labels", *SIZE, "--json", "--no-cost")
    outputs = [run(*arguments, *more).stdout for more in ((), ("--workers", 2), ("--batch-size", 3))]
    assert outputs[0] == outputs[1]
    whole, parted = json.loads(outputs[0]), json.loads(outputs[2])
    assert "cost" not in whole
    # What is no count may round otherwise.
    for figure in ("probability change", "divergence"):
        one, other = parted.pop(figure), whole.pop(figure)
        assert one["mean"] == pytest.approx(other["mean"], rel=1e-5)
    assert parted == whole


def test_an_interruption_prints_what_there_is(run, digits, monkeypatch: pytest.MonkeyPatch) -> None:
    original = measure_run.batches

    def interrupted(*arguments):
        yield next(original(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_run, "batches", interrupted)
    result = run("measure", "net.pt", *ALLOW, "--images", "digits", *SIZE, "--batch-size", 10, "--no-cost")
    assert result.exit_code == 0, result.output
    assert "10 images of digits (partial: interrupted), " in result.stdout


REFUSED = {
    "no folder": (
        ["net.pt", "--images", "nowhere"],
        "nowhere is not a folder; give one that holds images, ",
    ),
    "no images": (
        ["net.pt", "--images", "digits/none"],
        "There are no images in digits/none; these are looked for",
    ),
    "other classes": (
        ["timm:test_resnet", "--images", "digits", "--labels", "--input-size", "3,40,40"],
        "The labels have 10 classes and the model 1000; give one subfolder, or one name, a class, or leave the labels ",
    ),
    "two kinds of models": (
        ["net.pt", "timm:test_resnet?in_chans=1", "--images", "digits", *SIZE],
        "The models have 10 and 1000 classes, so they cannot be compared; give two models of the same classes",
    ),
    "another size": (
        ["timm:test_vit", "--images", "digits", "--input-size", "3,40,40"],
        "timm:test_vit does not run on images of 3x40x40: ",
    ),
    "not square": (
        ["net.pt", "--images", "digits", "--input-size", "1,40,32"],
        "Windows are square, and an input of 1x40x32",
    ),
    "no device": (["net.pt", "--images", "digits", "--device", "nothing", *SIZE], "--device nothing cannot be used: "),
    "a mean too many": (
        ["net.pt", "--images", "digits", "--mean", "0,0,0"],
        "mean must have one number for each of 1 channels",
    ),
    "two kinds of labels": (
        ["net.pt", "--images", "digits", "--labels", "--labels-from", "a.csv"],
        "--labels and --labels-from both say what the classes are; give one of them.",
    ),
    "labels of masks": (
        ["net.pt", "--images", "digits", "--labels", "--task", "segment"],
        "--labels is for models that give classes, not for --task segment.",
    ),
    "no masks": (
        ["net.pt", "--images", "digits", "--task", "segment", *SIZE],
        "net.pt must give a map as large as its input for each image; for 32 it gave [32, 10].",
    ),
    "no values": (["net.pt", "--images", "digits", "--device", "meta", *SIZE], "--device meta has no values"),
    "no page": (["net.pt", "--images", "digits", "--report", "a.txt"], "--report writes a page, so a.txt must end in"),
    "no folder for the page": (["net.pt", "--images", "digits", "--report", "no/a.html"], "no does not exist"),
    "nothing readable": (
        ["net.pt", "--images", "digits/broken", *SIZE],
        "None of the 1 images can be read; the first: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_one_sentence(case: str, run, digits, tmp_path: Path) -> None:
    if case == "no images":
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


def figures(result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_circular_shifts_and_the_diagonal(run, digits) -> None:
    model, pictures = digits
    asked = ("--circular", "--diagonal", "--no-cost", "--json", "--seed", 2)
    found = figures(run("measure", "net.pt", *ALLOW, "--images", "digits", "--labels", *SIZE, *asked))
    inner = pictures[:, :, 4:44, 4:44]
    assert (
        found["circular consistency"]["percent"] == estimate(agreement(rolled_answers(model, inner, 8, seed=2))).percent
    )
    labels = torch.tensor([int(path.parent.name) for path in sorted(Path("digits").rglob("*.png"))])
    expected = variation(diagonal_sweep(model, pictures, 40).double(), labels).mean()
    assert found["diagonal variation"]["mean"] == pytest.approx(float(expected), rel=1e-4)
    assert 0 < found["probability change"]["mean"] < 2


def test_what_it_costs(run, digits) -> None:
    found = figures(run("measure", "net.pt", "smooth.pt", *ALLOW, "--images", "digits", *SIZE, "--json"))
    model, _ = digits
    before, after = found["cost"], found["other"]["cost"]
    assert before["parameters"] == after["parameters"] == sum(value.numel() for value in model.parameters())
    assert before["macs"] == cost(model, torch.zeros(1, 1, 40, 40)).macs < after["macs"]
    assert before["activations"] < after["activations"]
    assert before["file"] == Path("net.pt").stat().st_size
    assert before["milliseconds"] > 0


def test_labels_from_a_table_and_from_archives(run, digits, tmp_path: Path) -> None:
    paths = sorted(Path("digits").rglob("*.png"))
    asked = (*SIZE, "--json", "--no-cost")
    expected = figures(run("measure", "net.pt", *ALLOW, "--images", "digits", "--labels", *asked))["accuracy"]
    rows = [f"{path.relative_to('digits')},{path.parent.name}" for path in paths]
    for name, lines in (("numbers.csv", rows), ("headed.csv", ["path,class", *rows])):
        Path(name).write_text("\n".join(lines))
        found = figures(run("measure", "net.pt", *ALLOW, "--images", "digits", "--labels-from", name, *asked))
        assert found["accuracy"] == expected
    with tarfile.open("digits.tar", "w") as tar:
        for path in paths:
            tar.add(path, f"{path.parent.name}-{path.stem}.png")
            holder = tarfile.TarInfo(f"{path.parent.name}-{path.stem}.cls")
            holder.size = 1
            tar.addfile(holder, io.BytesIO(path.parent.name.encode()))
    found = figures(run("measure", "net.pt", *ALLOW, "--images", "digits.tar", "--labels", *asked))
    assert found["accuracy"] == expected
    Path("wrong.csv").write_text("\n".join([*rows[:-1], f"{rows[-1][:-1]}12"]))
    result = run("measure", "net.pt", *ALLOW, "--images", "digits", "--labels-from", "wrong.csv", *asked)
    assert result.stderr.startswith("Error: There is a label 12, and the model has 10 classes, counted from 0;")


class Mask(nn.Module):
    """Two classes: dark and bright, seen through a strided conv."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 2, 3, 2, 1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x))


def test_networks_that_give_maps(run, digits) -> None:
    torch.save(Mask(), "mask.pt")
    asked = ("--images", "digits", *SIZE, "--json", "--allow", "test_measure.Mask")
    found = figures(run("measure", "mask.pt", *asked, "--task", "segment"))
    assert 0 < found["mean IoU"]["percent"] < 100
    assert found["task"] == "segment"
    found = figures(run("measure", "mask.pt", *asked, "--task", "picture"))
    assert 0 < found["PSNR"]["mean"] < 100
    assert found["PSNR"]["unit"] == "dB"
    result = run("measure", "mask.pt", *asked)
    assert "it gave [32, 2, 40, 40] (of masks or images, say so: --task)." in result.stderr


def test_where_it_aliases(run, digits) -> None:
    asked = (*ALLOW, "--images", "digits", *SIZE, "--per-layer", "--no-cost")
    lines = run("measure", "net.pt", "smooth.pt", *asked).stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("folded back in smooth.pt"))
    sites = [line.split()[0] for line in lines[header + 1 :] if "points" in line]
    smooth = torch.load("smooth.pt", weights_only=False)
    assert sites == [decision.site for decision in smooth.meta["blurify"].rewritten]
    found = figures(run("measure", "net.pt", *asked, "--json"))["folded"]
    for shares in found.values():
        assert shares["after"]["percent"] < shares["before"]["percent"]
        assert shares["difference"]["percent"] == pytest.approx(
            shares["after"]["percent"] - shares["before"]["percent"]
        )


def test_a_report(run, digits, tmp_path: Path) -> None:
    asked = (*ALLOW, "--images", "digits", "--labels", *SIZE, "--report", "out.html")
    result = run("measure", "net.pt", "smooth.pt", *asked)
    assert result.exit_code == 0, result.output
    page = Path("out.html").read_text()
    for title in ("What the models answer", "What they cost", "Where it still aliases"):
        assert title in page
    assert "40 images of digits" in page
    assert "conv" in page
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.slow
def test_two_processes_give_what_one_gives(digits, tmp_path: Path) -> None:
    arguments = ["net.pt", *ALLOW, "--images", "digits", "--labels", *map(str, SIZE), "--json", "--no-cost"]
    arguments += ["--batch-size", "6"]
    environment = os.environ | {"PYTHONPATH": str(Path(blurify.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    (tmp_path / "digits" / "3" / "broken.png").write_bytes(b"no image")

    def said(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200
        )

    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "blurify", "measure")
    one, two = said("-m", "blurify", "measure", *arguments), said(*launch, *arguments)
    assert one.returncode == two.returncode == 0, two.stderr
    assert json.loads(one.stdout)["skipped"]
    assert one.stdout == two.stdout
    failed = said(*launch, *arguments, "--strict")
    assert failed.returncode != 0
    assert "broken.png cannot be read" in failed.stderr
