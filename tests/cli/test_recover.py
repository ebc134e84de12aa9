"""`blurify recover` on the shipped classifier: it reports, writes, and refuses in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import blurify
from blurify import demo
from blurify.cli import recover_run
from blurify.cli.group import cli
from blurify.cli.options import output_next_to
from blurify.errors import ArgumentError
from blurify.measure import networks
from blurify.recovery import distilling
from tests.digits import write_digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier as a file, and images of digits in a folder a class."""
    where = tmp_path_factory.mktemp("recover")
    write_digits(where, 90)
    return where


def invoke(folder: Path, *options: str, images: Path | None = None) -> Result:
    allow = ["--allow", "blurify.demo.classifier.DigitNet", "--allow", "blurify.demo.classifier.Block"]
    common = f"--images {images or folder / 'digits'} --input-size 1,40,40 --shift 4 --mean 0 --std 1".split()
    return CliRunner().invoke(cli, ["recover", str(folder / "net.pt"), *allow, *common, *options])


def test_it_reports_and_writes(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    result = invoke(folder, "-o", str(target), "--labels", "--json", "--filt-size", "4", "--calib", "60")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert set(said["models"]) == {"original", "carried", "recovered"}
    assert said["models"]["original"]["agreement"]["percent"] == 100
    assert {"consistency", "accuracy"} < set(said["models"]["recovered"])
    assert (said["pictures"], said["test_pictures"]) == (60, 30)
    assert said["errors"]["lstsq"] < said["errors"]["carried"]
    names = ("demo.classifier.DigitNet", "demo.classifier.Block", "graph.module.rebuild")
    written = blurify.load(target, allow=[f"blurify.{name}" for name in names])
    assert len(written.meta["blurify"].rewritten) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_an_exported_program_recovers(folder: Path, tmp_path: Path) -> None:
    model, pictures, _ = demo.load_demo()
    program = torch.export.export(
        model.eval(), (pictures[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=True
    )
    torch.export.save(program, tmp_path / "net.pt2")
    # It says itself that its images are grey, and how large.
    options = [
        "--shift",
        "4",
        "--mean",
        "0",
        "--std",
        "1",
        "--filt-size",
        "4",
        "--json",
        "-o",
        str(tmp_path / "out.pt2"),
    ]
    result = CliRunner().invoke(
        cli, ["recover", str(tmp_path / "net.pt2"), "--images", str(folder / "digits"), *options]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["errors"]["lstsq"] < said["errors"]["carried"]
    assert (tmp_path / "out.pt2").exists()


def test_a_budget_is_searched_for(folder: Path, tmp_path: Path) -> None:
    target, picture = tmp_path / "out.pt", tmp_path / "curve.png"
    options = ["-o", str(target), "--min-agreement", "60", "--filt-size", "3", "--strength", "0.5", "--calib", "60"]
    result = invoke(folder, *options, "--json", "--picture", str(picture))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    # All that was allowed meets so low a budget, so that no more is tried.
    assert [trial["strength"] for trial in said["trade_off"]] == [0, 0.5]
    assert said["trade_off"][0]["agreement"]["percent"] == 100
    assert set(said["strengths"].values()) == {0.5}
    assert (said["min_agreement"], said["test_pictures"]) == (60, 30)
    assert picture.read_bytes()[1:4] == b"PNG"
    names = ("demo.classifier.DigitNet", "demo.classifier.Block", "graph.module.rebuild")
    written = blurify.load(target, allow=[f"blurify.{name}" for name in names])
    assert {decision.strength for decision in written.meta["blurify"].rewritten} == {0.5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-agreement", "100"], "100.0 is not in the range 0<x<100"),
        (["--picture", "curve.png"], "--picture draws the trade-off that --min-agreement finds; give that too."),
        (["--min-agreement", "90", "--resume"], "--resume cannot be combined with --min-agreement"),
        (["--resume"], "--resume is for --method distill or all, which train, and not for lstsq."),
        (["--min-agreement", "90", "--picture", "curve.txt"], "give it a name in .png or .svg."),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(folder: Path, tmp_path: Path, options: list[str], said: str) -> None:
    result = invoke(folder, "-o", str(tmp_path / "out.pt"), *options)
    assert result.exit_code != 0
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_person_reads_a_table(folder: Path, tmp_path: Path) -> None:
    result = invoke(folder, "-o", str(tmp_path / "out.pt"), "--method", "bn", "--filter", "halfband")
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["original", "carried", "recovered"]
    assert [line.partition("  ")[0] for line in lines[:3]] == ["consistency", "one-pixel consistency", "agreement"]
    assert "the original agrees with itself on " in result.stdout
    assert "on 30 held-out images" in result.stdout


def test_labels_are_trained_on_if_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    (folder / "digits" / "3" / "broken.png").write_bytes(b"no image")
    try:
        options = [
            "-o",
            str(tmp_path / "out.pt"),
            *"--method distill --labels --fine-tune --calib 60 --epochs 1".split(),
        ]
        result = invoke(folder, *options)
    finally:
        (folder / "digits" / "3" / "broken.png").unlink()
    assert result.exit_code == 0, result.output
    assert "skipped: " in result.stdout


def test_a_search_is_told_all_that_is_asked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def stop(*_: object, **options: object) -> None:
        seen.update(options)
        raise ArgumentError("enough.")

    monkeypatch.setattr(recover_run, "strongest", stop)
    options = (
        "--min-agreement 90 --method all --frozen-norms --epochs 2 --rate 0.5 --seed 3 --batch-size 7 --memory 1GB"
    )
    assert invoke(folder, "-o", str(tmp_path / "out.pt"), *options.split()).stderr.endswith("Error: enough.\n")
    wanted = {"size": 40, "min_agreement": 90, "method": "all", "frozen_norms": True, "epochs": 2, "rate": 0.5}
    assert seen == wanted | {"seed": 3, "batch_size": 7, "memory": 10**9}


def interrupting(after: int) -> Callable[..., Iterator[tuple[Tensor, Tensor]]]:
    """Batches to measure on that are interrupted after so many."""
    batches = networks._batches

    def some(*args: object) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(batches(*args)):
            if number == after:
                raise KeyboardInterrupt
            yield batch

    return some


TRAINING = ("--calib", "40", "--method", "distill", "--epochs", "1")


@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupted_training_is_resumed(after: int, folder: Path, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "out.pt"
    with monkeypatch.context() as patched:
        patched.setattr(networks, "_batches", interrupting(after))
        result = invoke(folder, "-o", str(target), *TRAINING)
    assert result.exit_code == 130
    assert re.fullmatch(r"Interrupted after \d+ s; run the same command with --resume to continue.\n", result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt.training"]
    other = invoke(folder, "-o", str(target), *TRAINING, "--resume", "--filt-size", "5")
    assert other.exit_code == 1
    assert "out.pt.training was left by a recovery with other weights, blurs, images" in other.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt.training"]
    # All epochs are trained already.
    monkeypatch.setattr(distilling.Training, "run", None)
    assert invoke(folder, "-o", str(target), *TRAINING, "--resume").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_an_interrupted_fit_leaves_nothing_and_says_so(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(networks, "_batches", interrupting(0))
    result = invoke(folder, "-o", str(tmp_path / "out.pt"), "--calib", "40")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_resume_from_is_said(folder: Path, tmp_path: Path) -> None:
    result = invoke(folder, "-o", str(tmp_path / "out.pt"), *TRAINING, "--resume")
    assert result.exit_code == 0
    assert "out.pt.training to resume from, so the training starts again." in result.stderr


@pytest.mark.parametrize("method", ["lstsq", "distill"])
def test_values_that_are_not_finite_leave_nothing(method: str, folder: Path, tmp_path: Path) -> None:
    model = demo.load_demo()[0]
    with torch.no_grad():
        model.conv1.weight[0] = torch.inf
    torch.save(model, tmp_path / "net.pt")
    result = invoke(tmp_path, "-o", str(tmp_path / "out.pt"), "--method", method, images=folder / "digits")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The networks give values that are not finite at 'conv1'; look at the images and the weights.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--device", "warp"], 1, "--device warp cannot be used: "),
        (["--device", "meta"], 1, "--device meta has no values to compare"),
        (["--memory", "1KB"], 1, "A memory of 1KB is too small to fit any layer; "),
        (["--method", "nonsense"], 2, "'nonsense' is not one of 'lstsq', 'bn', 'distill', 'all'"),
        (["--min-agreement", "101"], 2, "101.0 is not in the range 0<x<100"),
        (["--calib", "0"], 2, "0 is not in the range x>=2"),
        (["--frozen-norms"], 2, "--frozen-norms is for --method bn or all; give one of these too."),
        (["--rate", "0.1"], 2, "--rate is for --method distill or all, which train, and not for lstsq."),
        (["--rate", "0", "--method", "all"], 2, "0.0 is not in the range x>0"),
        (["--rate", "inf", "--method", "all"], 1, "rate must be above 0 and finite, got inf."),
        (["--epochs", "4"], 2, "--epochs is for --method distill or all, which train, and not for lstsq."),
        (["--epochs", "0"], 2, "0 is not in the range x>=1"),
        (["--fine-tune"], 2, "--fine-tune trains on the classes that --labels finds; give that too."),
        (["--fine-tune", "--labels"], 2, "--fine-tune is for --method distill or all, which train, and not for lstsq."),
        (
            ["--fine-tune", "--labels", "--method", "all", "--min-agreement", "9"],
            2,
            "--fine-tune changes answers and --min-agreement keeps them; remove one of them.",
        ),
        (["--memory", "plenty"], 2, "'plenty' is not a size such as 500MB"),
        (["--mean", "grey"], 2, "'grey' is not a number for each channel"),
        (["--input-size", "1,40,44"], 1, "Windows are square, and an input of 1x40x44 is not"),
        (["--exclude", "*"], 1, "there is nothing to recover"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path, options: list[str], code: int, sentence: str) -> None:
    result = invoke(folder, "-o", str(tmp_path / "out.pt"), *options)
    assert result.exit_code == code
    assert sentence in " ".join(result.output.replace("\u2502", " ").split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_folder_names_its_output_after_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path / "net")
    assert output_next_to(".", ".recovered.pt") == tmp_path / "net.recovered.pt"
    assert output_next_to("timm:resnet18?num_classes=3", ".recovered.pt") == Path("resnet18.recovered.pt")
