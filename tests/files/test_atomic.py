"""Writing: the whole file or what was there before, and no trace of trying."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from blurify.errors import FileError
from blurify.files import check_output
from blurify.files.atomic import write_atomically


def test_writes_and_leaves_only_the_result(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_the_result_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("x"), OSError(28, "No space left on device")])
def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        raise failure

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises((type(failure), FileError)):
        write_atomically(tmp_path / "a", half)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="a cannot be written: No space left on device; the folder is as it was"):
        write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    assert list(tmp_path.iterdir()) == []


def test_refused_before_the_work(tmp_path: Path) -> None:
    source = tmp_path / "model.pt"
    source.write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.pt").symlink_to(source)
    (tmp_path / "twin.pt").hardlink_to(source)
    (tmp_path / "other.pt").touch()
    cases = [
        ("folder", True, "folder is a folder; name a file in it with -o."),
        ("model.pt", True, "model.pt is the input itself; name another file with -o."),
        ("folder/../model.pt", True, "model.pt is the input itself"),
        ("link.pt", True, "link.pt is the input itself"),
        ("twin.pt", True, "twin.pt is the input itself"),
        ("other.pt", False, "other.pt exists already; name another with -o, or overwrite it with --force."),
        ("none/a.pt", True, "none does not exist; make it, or name another with -o."),
        ("other.pt/a.pt", True, "other.pt does not exist; make it, or name another with -o."),
    ]
    before = sorted(tmp_path.rglob("*"))
    for name, force, message in cases:
        with pytest.raises(FileError, match=message):
            check_output(tmp_path / name, source=source, force=force)
    check_output(tmp_path / "other.pt", source=source, force=True)
    check_output(tmp_path / "new.pt", source=source)
    check_output(tmp_path / "new.pt", source=Path("timm:resnet18"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_nothing_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # permission bits would not stop a test that runs as root
    with pytest.raises(FileError, match="cannot be written to: Permission denied; name another folder with -o"):
        check_output(tmp_path / "new.pt")


@pytest.mark.parametrize("suffix", [".h5", ".TorchScript"])
def test_formats_that_are_not_written_are_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=rf"\{suffix} files are not written; name the output a\.pt or a\.pt2 with -o"):
        check_output(tmp_path / f"a{suffix}")
