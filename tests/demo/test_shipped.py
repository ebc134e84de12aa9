"""The demo: what ships is what it says, and the conversion does what it is for."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from blurify import Plan
from blurify.demo import DemoResult, load_demo, read_asset, run_demo
from blurify.errors import BlurifyError, FileError
from blurify.measure.consistency import accuracy


@pytest.fixture(scope="module")
def result() -> DemoResult:
    return run_demo()


def test_the_file_is_small_and_holds_nothing_but_data() -> None:
    # read_asset reads with weights_only=True, which refuses anything else.
    assert files("blurify.demo").joinpath("digits.pt").stat().st_size <= 1_000_000  # type: ignore[attr-defined]
    asset = read_asset()
    assert set(asset) == {"state_dict", "pictures", "labels", "provenance"}
    assert asset["pictures"].dtype == asset["labels"].dtype == torch.uint8
    assert asset["pictures"].shape == (1000, 28, 28)
    assert asset["provenance"]["script"] == "python -m benchmarks.train_demo"


def test_the_classifier_is_as_good_as_the_file_says() -> None:
    model, pictures, labels = load_demo()
    provenance = read_asset()["provenance"]
    assert 100 * float(accuracy(model, pictures, labels).mean()) == pytest.approx(provenance["shipped_accuracy"])
    assert provenance["test_accuracy"] >= 99


def test_loading_leaves_the_random_state_as_found() -> None:
    state = torch.get_rng_state()
    model, pictures, labels = load_demo()
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert (pictures.shape, pictures.dtype) == ((1000, 1, 40, 40), torch.float32)
    assert (float(pictures.min()), float(pictures.max())) == (0.0, 1.0)
    assert labels.dtype == torch.int64
    # The first of the MNIST test set, in its order.
    assert labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]


def test_every_downsampling_is_rewritten_and_proved(result: DemoResult) -> None:
    assert [d.site for d in result.plan.rewritten] == [
        "maxpool",
        "layer1.conv1",
        "layer1.downsample.0",
        "layer2.conv1",
        "layer2.downsample.0",
    ]
    assert not result.plan.kept
    assert result.verdict.ok


def test_consistency_rises_beyond_doubt(result: DemoResult) -> None:
    assert result.consistency.change.low > 0
    assert result.shifted_accuracy.change.low > 0
    assert result.consistency.after.percent > result.consistency.before.percent
    assert result.consistency.change.percent == pytest.approx(
        result.consistency.after.percent - result.consistency.before.percent
    )


@pytest.mark.slow
def test_a_filter_of_one_tap_changes_nothing() -> None:
    result = run_demo(filt_size=1)
    for compared in (result.consistency, result.accuracy, result.shifted_accuracy):
        assert compared.before == compared.after
        assert compared.change.percent == 0


def test_the_report_has_every_figure(result: DemoResult) -> None:
    text = str(result)
    for part in (result.plan, result.verdict, result.consistency.before, result.consistency.after):
        assert str(part) in text
    for compared in (result.consistency, result.accuracy, result.shifted_accuracy):
        assert compared.change.as_change() in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_program_is_told_every_figure(result: DemoResult) -> None:
    found, text = json.loads(result.as_json()), str(result)
    for measure in ("consistency", "accuracy", "shifted_accuracy"):
        for when in ("before", "after"):
            figures = found[measure][when]
            assert f"{figures['percent']:.1f} % ({figures['low']:.1f} to {figures['high']:.1f})" in text
            assert figures["pictures"] == 1000
        assert f"{found[measure]['change']['percent']:+.1f} points" in text
    assert (found["filt_size"], found["proofs"]["ok"]) == (4, True)
    assert f"{found['proofs']['weights']['count']} parameters and buffers" in text
    assert Plan.from_json(json.dumps(found["plan"])) == result.plan
    assert f"Took {found['seconds']:.1f} s" in text


@pytest.mark.slow
def test_draws_the_picture(tmp_path: Path) -> None:
    target = tmp_path / "demo.png"
    run_demo(filt_size=2, picture=target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]


def test_refuses_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="folder"):
        run_demo(picture=tmp_path / "no" / "demo.png")


def test_refuses_a_picture_without_matplotlib_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr("blurify.demo.load_demo", lambda: pytest.fail("worked before refusing"))
    with pytest.raises(BlurifyError, match="matplotlib"):
        run_demo(picture=tmp_path / "demo.png")
    assert not list(tmp_path.iterdir())
