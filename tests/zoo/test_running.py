"""A run over real networks: what it leaves, and that a second one does what is missing and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import blurify
from blurify.errors import FileError
from blurify.zoo import pool
from blurify.zoo.running import convert_all
from blurify.zoo.settings import FAILED, Settings
from tests.conftest import run, tiered
from tests.zoo.conftest import Convert, assert_whole, model_records
from tests.zoo.subjects import HOME, tiny_names

NAMES = ["timm:test_resnet", "timm:test_vit", "torchvision:shufflenet_v2_x0_5"]


def test_converts_proves_and_goes_on(convert: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    result = convert(NAMES)
    assert result.counts == {"converted": 2, "kept": 1}
    assert_whole(folder, NAMES)
    report = json.loads((folder / "timm/test_resnet/report.json").read_text())
    assert report["proofs"]["ok"]
    assert report["macs"][0] < report["macs"][1]
    assert report["peak_memory"] > 10**8
    assert "(ask for it with patch_embed=True)" in (folder / "timm/test_vit/README.md").read_text()
    model = blurify.load(folder / "timm/test_resnet/model.pt")
    assert run(model, torch.randn(1, 3, 64, 64)).isfinite().all()

    again = convert(NAMES)
    assert again.done_before == 3
    assert_whole(folder, NAMES)  # in the ledger too each is there once


def test_a_damaged_file_is_noticed_and_only_its_model_made_again(convert: Convert, tmp_path: Path) -> None:
    names = tiny_names(3)
    convert(names)
    file = next((tmp_path / "zoo").glob("*/tiny--width=2/model.pt"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    assert convert(names).done_before == 2
    assert file.read_bytes()[-1:] != b"x"
    assert [(r["model"], r["attempt"]) for r in model_records(tmp_path / "zoo")[3:]] == [(names[1], 2)]


def test_what_was_finished_but_not_recorded_is_found_again(convert: Convert, tmp_path: Path) -> None:
    names = tiny_names(2)
    convert(names)
    folder = tmp_path / "zoo"
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("model.pt")}
    (folder / "ledger.jsonl").unlink()
    (folder / ".part-killed").mkdir()
    convert(names)
    assert_whole(folder, names)
    assert made == {path: path.stat().st_mtime_ns for path in folder.rglob("model.pt")}


def test_large_models_first_within_the_memory() -> None:
    order: list[str] = []
    tasks = [pool.Task(str(size), _echo, (size,), memory=size * 10**8) for size in (1, 5, 3, 20)]
    limits = pool.Limits(2, 60, 10**9)
    for task, record in pool.run_all(tasks, limits, lambda task: order.append(task.name)):
        assert record == {"size": int(task.name)}
    assert order == ["20", "5", "3", "1"]


def _echo(size: int) -> dict[str, int]:
    return {"size": size}


def test_stops_when_asked_and_goes_on_later(convert: Convert, tmp_path: Path) -> None:
    names = tiny_names(5)
    ended: list[str] = []

    class Watcher:
        stage = ""

        def begin(self, stage: str, total: int) -> None:
            self.stage = stage

        def started(self, name: str) -> None: ...

        def ended(self, name: str, record: dict[str, object]) -> None:
            if self.stage == "converting":
                ended.append(name)

    result = convert(names, jobs=1, watcher=Watcher(), stopping=lambda: len(ended) == 2)
    assert len(result.records) == 2
    assert len(result.left) == 3
    convert(names)
    assert_whole(tmp_path / "zoo", names)


@pytest.mark.parametrize(
    ("subject", "kind", "said"),
    [
        ("raises", "error", "there is no such block"),
        ("dies", "crash", "ended by SIGKILL, which is what the system does when memory runs out"),
        ("dies_later", "crash", "ended by SIGKILL"),
        ("eats", "memory", "needs more than the 0.8 GB of memory that are allowed"),
        ("eats_later", "memory", "needs more than the 0.8 GB of memory that are allowed"),
    ],
)
def test_a_bad_model_fails_alone(convert: Convert, tmp_path: Path, subject: str, kind: str, said: str) -> None:
    name, good = f"{HOME}:{subject}", tiny_names(1)
    result = convert([name, *good], memory=0.8, jobs=1)
    assert result.records[good[0]]["status"] == "converted"
    record = result.records[name]
    assert (record["status"], record["kind"]) == (FAILED, kind)
    assert said in record["error"]
    assert "\n" not in record["error"]
    assert convert([name, *good]).done_before == 2  # what failed is not tried again


def test_what_failed_is_tried_again_on_request(convert: Convert) -> None:
    name = f"{HOME}:raises"
    assert [convert([name], retry_failed=True).records[name]["attempt"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("subject", tiered(["hangs", "hangs_later"], "hangs"))
def test_a_model_that_hangs_ends_at_the_time_limit(convert: Convert, subject: str) -> None:
    record = convert([f"{HOME}:{subject}"], timeout=2).records[f"{HOME}:{subject}"]
    assert (record["kind"], record["error"]) == ("timeout", "was not done within 2 s")


def test_failing_proofs_write_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from blurify.verifying.verdict import Verdict, Weights
    from blurify.zoo import job, proving

    wrong = Verdict(0.5, 1e-4, (), Weights(3, ("fc.bias differs in value",)))
    monkeypatch.setattr(proving, "verify", lambda *_, **__: wrong)
    record = job.convert(tiny_names(1)[0], Settings(), str(tmp_path))
    assert record["kind"] == "proof"
    assert "fc.bias differs in value" in record["error"]
    assert list(tmp_path.rglob("model.pt")) == []


def test_a_folder_that_workers_write_elsewhere_is_noticed(tmp_path: Path) -> None:
    def elsewhere(tasks, limits, started, stopping):  # type: ignore[no-untyped-def]
        for task in tasks:
            yield task, {"model": task.name, "status": "converted", "files": {"model.pt": {"bytes": 1, "sha256": "0"}}}

    with pytest.raises(FileError, match="does not have its files as seen from here"):
        convert_all(tiny_names(1), Settings(), str(tmp_path / "zoo"), runner=elsewhere)
