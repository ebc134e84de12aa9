"""The ledger and its folder: what a crash leaves is read, what a full disk leaves is nothing, and one run at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blurify.errors import FileError
from blurify.zoo import folder, ledger
from blurify.zoo.ledger import Ledger, append_line, cut_broken_line, read_lines
from blurify.zoo.settings import Settings

RECORDS = [{"model": "a", "status": "failed"}, {"model": "b", "status": "converted"}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    for record in RECORDS:
        append_line(path, record)
    return path


def test_a_line_cut_off_anywhere_costs_that_line_alone(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        assert list(read_lines(path)) == RECORDS[:1]
        cut_broken_line(path)
        append_line(path, RECORDS[1])
        assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_no_crash(path: Path) -> None:
    path.write_bytes(b'{"model": \n' + path.read_bytes())
    with pytest.raises(FileError, match=r"line 1 of .* is not JSON.*; restore the file, or delete it"):
        Ledger(path)


def test_a_full_disk_leaves_the_ledger_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_line(path, RECORDS[0])
    assert path.read_bytes() == whole


def test_attempts_are_counted(path: Path) -> None:
    opened = Ledger(path)
    assert opened.add({"model": "a", "status": "failed"})["attempt"] == 1
    assert opened.add({"model": "a", "status": "converted"})["attempt"] == 2
    assert Ledger(path).models["a"]["status"] == "converted"


def test_a_second_run_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    code = (
        "from blurify.zoo import folder, settings\nfrom pathlib import Path\nimport sys\n"
        "with folder.opened(Path(sys.argv[1]), settings.Settings(), sys.argv[1]):\n print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, zoo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        assert folder.inspect(zoo).process == first.pid
        with pytest.raises(FileError, match=f"Process {first.pid} is converting into .* already"):
            _open(zoo)
        first.kill()
    # However it ended, nobody holds the folder any more.
    assert folder.inspect(zoo).process is None
    _open(zoo)


def _open(zoo: Path, settings: Settings | None = None, where: str | None = None) -> None:
    with folder.opened(zoo, settings or Settings(), where or str(zoo)):
        pass


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    _open(tmp_path / "zoo")
    with pytest.raises(FileError, match="was begun with filt_size 4, not 3; go on with the same, or name another"):
        _open(tmp_path / "zoo", Settings(filt_size=3))
    with pytest.raises(FileError, match=r"was begun with strength 1\.0, not 0\.5"):
        _open(tmp_path / "zoo", Settings(strength=0.5))
    with pytest.raises(FileError, match=r"was begun with output .*zoo, not s3://bucket"):
        _open(tmp_path / "zoo", where="s3://bucket")


def test_a_folder_of_before_there_were_strengths_is_gone_on_with(tmp_path: Path) -> None:
    _open(tmp_path / "zoo")
    mark = tmp_path / "zoo" / folder.MARK
    content = json.loads(mark.read_text())
    del content["settings"]["strength"]
    mark.write_text(json.dumps(content))
    _open(tmp_path / "zoo")
    with pytest.raises(FileError, match="was begun with strength"):
        _open(tmp_path / "zoo", Settings(strength=0.5))


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileError, match=r"holds thesis\.tex and no zoo\.json, so it is not a zoo's; name an empty"):
        _open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileError, match=r"has no zoo\.json, so no zoo was converted into it"):
        folder.inspect(tmp_path)


def test_a_file_and_a_place_that_takes_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file is a file, not a folder; name a folder with -o"):
        _open(tmp_path / "file")
    with pytest.raises(FileError, match=r"cannot be written to: .*; name another folder with -o"):
        _open(Path("/proc/zoo"))


def test_a_mark_that_says_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text('{"blurify": 3}')
    with pytest.raises(FileError, match=r"zoo\.json is not what a run writes"):
        _open(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fcntl")
def test_looking_does_not_take_the_folder(tmp_path: Path) -> None:
    _open(tmp_path / "zoo")
    assert folder.holder(tmp_path / "zoo") is None
    _open(tmp_path / "zoo")
