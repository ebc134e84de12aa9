"""One job, in this process: where weights come from, what goes wrong, and stores of other kinds."""

from __future__ import annotations

import errno
import io
import json
import urllib.error
from pathlib import Path
from typing import Any

import fsspec
import pytest
import timm
import torch
from timm.models import save_for_hf

import blurify
from blurify import files
from blurify.errors import ArchitectureError, ArgumentError
from blurify.zoo import failures, job, sources
from blurify.zoo.running import convert_all
from blurify.zoo.settings import Settings
from blurify.zoo.storage import open_store
from tests.zoo.subjects import tiny_names

TINY = tiny_names(1)[0]
PRETRAINED = Settings(pretrained=True)


def test_weights_of_a_folder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    trained = timm.create_model("test_resnet", num_classes=7)
    save_for_hf(trained, str(tmp_path / "trained"), safe_serialization=False)
    name = f"local-dir:{tmp_path / 'trained'}"
    record = job.convert(name, PRETRAINED, str(tmp_path / "out"))
    assert record["status"] == "converted"
    assert record["arch"].startswith("timm:test_resnet?num_classes=7")
    (file,) = (tmp_path / "out").rglob("model.pt")
    state = blurify.load(file).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items())
    config = json.loads((file.parent / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["blurify"]["filt_size"]) == ("test_resnet", 7, 4)
    assert config["pretrained_cfg"]["input_size"] == [3, 160, 160]
    assert "the pretrained ones, unchanged" in (file.parent / "README.md").read_text()
    assert job.weigh(name)["parameters"] == sum(p.numel() for p in trained.parameters())
    assert "cannot be had" in job.convert(f"local-dir:{tmp_path}/none", PRETRAINED, str(tmp_path / "out"))["error"]


def test_untrained_weights_are_as_they_were_made(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = timm.create_model("test_resnet").state_dict()
    torch.manual_seed(0)
    job.convert("timm:test_resnet", Settings(), str(tmp_path))
    state = blurify.load(tmp_path / "timm/test_resnet/model.pt").state_dict()
    assert list(state) == list(made)
    assert all(torch.equal(value, state[key]) for key, value in made.items())


def test_a_network_that_fails_is_asked_again_and_then_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    waited: list[float] = []

    def unreachable(name: str, **_: Any) -> files.LoadedModel:
        asked.append(name)
        try:
            raise urllib.error.URLError("no route to host")
        except urllib.error.URLError as error:
            raise ArchitectureError(f"the pretrained weights of {name!r} cannot be had") from error

    monkeypatch.setattr(sources.files, "read_model", unreachable)
    monkeypatch.setattr(sources.time, "sleep", waited.append)
    record = job.convert("timm:test_resnet", PRETRAINED, str(tmp_path))
    assert (record["status"], record["kind"]) == ("failed", "network")
    assert len(asked) == 4
    assert waited == [1, 5, 25]
    monkeypatch.setattr(sources, "is_offline", lambda: True)
    assert job.convert("timm:test_resnet", PRETRAINED, str(tmp_path))["kind"] == "network"
    assert len(asked) == 5


def test_a_name_that_is_none_is_not_asked_for_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources.time, "sleep", lambda _: pytest.fail("waited"))
    assert job.convert("timm:test_resnt", Settings(), str(tmp_path))["kind"] == "error"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "memory"),
        (ConnectionResetError(), "network"),
        (ValueError("x"), "error"),
    ],
)
def test_kinds_of_failure_are_told_by_what_is_at_the_bottom(error: Exception, kind: str) -> None:
    outer = ArchitectureError("it cannot be built")
    outer.__cause__ = error
    assert failures.failure(outer) == {"status": "failed", "kind": kind, "error": "it cannot be built"}


def test_a_disk_that_is_full_is_what_a_save_says(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 10**5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space left on device") as caught:
        files.writing._pickle({"a": torch.zeros(2**20), "b": torch.zeros(2**20)}, Full(), tmp_path / "x.pt")
    assert "pickled" not in str(caught.value)


def test_memory_store() -> None:
    where = "memory://zoo"
    made = job.convert(TINY, Settings(), where)
    assert made["status"] == "converted"
    names = {file.rpartition("/")[2] for file in fsspec.filesystem("memory").find("/zoo")}
    assert names == {"model.pt", "plan.json", "config.json", "README.md", "report.json"}
    store = open_store(where)
    assert store.holds(made)
    # What is there is not made again: a second making would have taken another time.
    assert job.convert(TINY, Settings(), where)["time"] == made["time"]
    fsspec.filesystem("memory").pipe(f"/zoo/{TINY.replace(':', '/').replace('?', '--')}/model.pt", b"cut")
    assert not store.holds(made)
    assert store.holds(job.convert(TINY, Settings(), where))
    assert job.convert(TINY, Settings(filt_size=3), where)["settings"]["filt_size"] == 3


def test_urls_need_a_folder_for_the_ledger_and_something_to_write_them() -> None:
    with pytest.raises(ArgumentError, match="must lie in a folder of this machine; name one with --state"):
        convert_all([TINY], Settings(), "memory://zoo")
    with pytest.raises(ArgumentError, match=r"nope://x cannot be written to: .*; install what it names, or check it"):
        open_store("nope://x")


def test_a_job_is_asked_what_antialias_is(tmp_path: Path) -> None:
    settings = Settings(
        {"layer2.*": 3, "*": 5}, pad_type="zero-renorm", stem=True, exclude=("layer3.*",), grid="centered"
    )
    model = timm.create_model("test_resnet").eval()
    expected = blurify.plan(
        model, settings.filt_size, pad_type="zero-renorm", stem=True, exclude="layer3.*", grid="centered"
    )
    record = job.convert("timm:test_resnet", settings, str(tmp_path))
    assert record["settings"] == json.loads(json.dumps(settings.as_json()))
    assert (tmp_path / "timm/test_resnet/plan.json").read_text() == expected.to_json() + "\n"
    assert "filters of 3 taps at layer2.*, 5 taps)" in (tmp_path / "timm/test_resnet/README.md").read_text()
    assert job.plan("timm:test_resnet", settings)["sites"] == record["sites"]
    assert "notes" not in record


def test_a_pattern_that_matches_no_site_is_a_note_for_each_model(tmp_path: Path) -> None:
    settings = Settings(strength={"layr2.*": 0.5}, include=("layer2.*", "features.*"))
    record = job.convert("timm:test_resnet", settings, str(tmp_path))
    assert record["status"] == "converted"
    assert [note.partition(";")[0] for note in record["notes"]] == [
        "include pattern 'features.*' matches no site of this model",
        "strength pattern 'layr2.*' matches no site of this model",
    ]
    assert "the nearest of its" in record["notes"][1]
    assert job.plan("timm:test_resnet", settings)["notes"] == record["notes"]
    with pytest.raises(ArgumentError, match="include pattern 'features"):
        blurify.plan(timm.create_model("test_resnet"), include=["layer2.*", "features.*"])


def test_settings_that_no_conversion_takes_are_refused_at_once() -> None:
    with pytest.raises(ArgumentError, match="grid must be one of"):
        job.check(Settings(grid="askew"))
