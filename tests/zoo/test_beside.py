"""What is made beside a native file: other formats, figures on images, fitted weights; and what is not, and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

import blurify
from blurify import demo, files
from blurify.errors import ArgumentError, FileError
from blurify.measure.consistency import agreement, logits, shifted_answers
from blurify.measure.folder import find_pictures
from blurify.measure.networks import stacked
from blurify.measure.preparing import PreprocessOverrides, prepared
from blurify.zoo import job
from blurify.zoo.pool import Task
from blurify.zoo.running import convert_all
from blurify.zoo.settings import Record, Settings
from blurify.zoo.storage import open_store
from tests.conftest import relative_error, run
from tests.zoo.conftest import Convert
from tests.zoo.subjects import HOME, tiny_names

NAME = "timm:test_resnet"
BESSEL = f"{HOME}:bessel"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of digits, in colour."""
    folder = tmp_path_factory.mktemp("digits")
    _, pictures, _ = demo.load_demo()
    for number, picture in enumerate(pictures[:12]):
        pixels = (picture[0] * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).convert("RGB").resize((200, 200)).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_formats_give_the_same_answers_and_are_hashed(tmp_path: Path) -> None:
    settings = Settings(formats=("native", "onnx", "pt2", "safetensors"))
    record = job.convert(NAME, settings, str(tmp_path))
    folder = tmp_path / "timm/test_resnet"
    assert set(record["files"]) >= {"model.pt", "model.pt2", "model.onnx", "model.safetensors"}
    assert "missing" not in record
    x = torch.randn(2, 3, 160, 160)
    wanted = run(blurify.load(folder / "model.pt"), x)
    assert relative_error(wanted, torch.export.load(folder / "model.pt2").module()(x).detach()) < 1e-4
    assert relative_error(wanted, run(blurify.load(folder / "model.safetensors"), x)) < 1e-6
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert relative_error(wanted, torch.from_numpy(np.asarray(answer))) < 1e-4
    assert "- `model.onnx`: " in (folder / "README.md").read_text()
    store = open_store(str(tmp_path))
    assert store.holds(record)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1] + b"x")
    assert not store.holds(record)


def test_a_format_that_cannot_be_written_is_missing_and_told_and_tried_again(tmp_path: Path) -> None:
    folder, settings = tmp_path / "zoo", Settings(formats=("native", "onnx"))

    def here(tasks: list[Task], *_: object) -> Iterator[tuple[Task, Record]]:
        for task in tasks:
            yield task, task.function(*task.arguments)

    def convert(retry_failed: bool = False) -> Record:
        return convert_all([BESSEL], settings, str(folder), retry_failed=retry_failed, runner=here).records[BESSEL]

    record = convert()
    assert (record["status"], list(record["missing"])) == ("converted", ["onnx"])
    own = folder / HOME / "bessel"
    assert sorted(path.name for path in own.glob("model*")) == ["model.pt"]
    assert (
        "- There is no onnx: Sequential cannot be written as ONNX: No ONNX function found for <OpOverload"
        in (own / "README.md").read_text()
    )
    (row,) = csv.DictReader((folder / "index.csv").read_text().splitlines())
    assert row["files"] == "model.pt"
    assert row["reason"].startswith("no onnx: Sequential cannot be written as ONNX")
    assert convert()["attempt"] == 1
    assert convert(retry_failed=True)["attempt"] == 2


def test_memory_and_disk_are_the_whole_jobs_business(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def eats(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(files.formats, "save_program", eats)
    record = job.convert(tiny_names(1)[0], Settings(formats=("native", "pt2")), str(tmp_path))
    assert (record["status"], record["kind"]) == ("failed", "memory")
    assert list(tmp_path.rglob("model*")) == []


def test_figures_are_those_of_the_model_that_was_written(digits: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = timm.create_model("test_resnet").eval()
    torch.manual_seed(0)
    record = job.convert(NAME, Settings(measure=str(digits)), str(tmp_path))
    found = record["measured"]
    assert (found["pictures"], list(found["networks"])) == (12, ["original", "converted"])
    size, preprocessing = prepared({"input_size": (3, 160, 160)} | original.pretrained_cfg, PreprocessOverrides())
    pictures, _ = stacked(find_pictures(digits, False).paths, preprocessing)
    converted = blurify.load(tmp_path / "timm/test_resnet/model.pt")
    middle = pictures[..., 16 : 16 + size, 16 : 16 + size]
    same = (logits(original, middle).argmax(1) == logits(converted, middle).argmax(1)).double().mean()
    for name, model in (("original", original), ("converted", converted)):
        wanted = agreement(shifted_answers(model, pictures, size)).mean()
        assert found["networks"][name]["consistency"]["percent"] == pytest.approx(100 * float(wanted))
    assert found["networks"]["converted"]["agreement"]["percent"] == pytest.approx(100 * float(same))
    card = (tmp_path / "timm/test_resnet/README.md").read_text()
    assert "| consistency under shifts | " in card


def test_recovered_weights_are_written_and_measured_on_other_pictures(digits: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    record = job.convert(NAME, Settings(recover=str(digits), calib=8), str(tmp_path))
    assert record.get("missing") is None
    found = record["recovered"]
    assert (found["pictures"], record["measured"]["pictures"]) == (8, 4)
    assert list(record["measured"]["networks"]) == ["original", "carried", "recovered"]
    assert found["errors"]["lstsq"] < found["errors"]["carried"]
    folder = tmp_path / "timm/test_resnet"
    torch.manual_seed(0)
    carried, written = timm.create_model("test_resnet").state_dict(), blurify.load(folder / "model.pt").state_dict()
    changed = [key for key, value in written.items() if key.endswith("weight") and not torch.equal(value, carried[key])]
    assert len(changed) >= found["layers"] > 0
    assert "refitted without labels to 8 images" in (folder / "README.md").read_text()
    assert json.loads((folder / "report.json").read_text())["recovered"] == found


def test_a_model_that_takes_no_pictures_is_converted_all_the_same(digits: Path, tmp_path: Path) -> None:
    name = f"{HOME}:volume"
    record = job.convert(name, Settings(measure=str(digits), recover=str(digits)), str(tmp_path))
    assert record["status"] == "converted", record
    assert list(record["missing"]) == ["recover", "measure"]


def test_pictures_to_recover_from_are_never_measured_on(digits: Path) -> None:
    one, other = job.pictures.shared_out(Settings(recover=str(digits), measure=str(digits), calib=20))
    assert (len(one), len(other), set(one) & set(other)) == (8, 4, set())


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"formats": ("native", "gif")}, ArgumentError, r"'gif' is no format of models; give one of native, "),
        ({"formats": ("native", "module")}, ArgumentError, "'module' is no format of models"),
        ({"measure": "nowhere"}, FileError, "nowhere is not a folder"),
    ],
)
def test_what_every_job_would_fail_of_is_refused_at_once(
    tmp_path: Path, settings: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        convert_all([NAME], Settings(**settings), str(tmp_path / "zoo"))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_models_are_chosen_by_size(convert: Convert, tmp_path: Path) -> None:
    small, large = tiny_names(9)[::8]  # 28 and 252 parameters
    bad = f"{HOME}:raises"
    result = convert([small, large, bad], most_parameters=100)
    # What cannot be weighed is not left out in silence.
    assert {name: record["status"] for name, record in result.records.items()} == {small: "converted", bad: "failed"}
    assert large not in (tmp_path / "zoo/index.csv").read_text()
    with pytest.raises(ArgumentError, match="None of the 1 models has 100 parameters or less; allow more"):
        convert([large], most_parameters=100)
