"""Killed, interrupted, out of disk: what is there afterwards is whole, and the same command goes on from it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.zoo.conftest import Convert, assert_whole, model_records
from tests.zoo.subjects import HOME, tiny_names

pytestmark = pytest.mark.slow


def start(folder: Path, *names: str, **options: str) -> subprocess.Popen[str]:
    """`blurify zoo` in a process of its own."""
    given = [part for key, value in options.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "blurify", "zoo", *names, "-o", str(folder), "--jobs", "2", *given]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(folder: Path, count: int) -> None:
    """Until the ledger has so many models."""
    deadline = time.monotonic() + 120
    while not (folder / "ledger.jsonl").exists() or len(model_records(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_gone_on(convert: Convert, tmp_path: Path) -> None:
    folder, names = tmp_path / "zoo", tiny_names(12)
    with start(folder, *names) as process:
        wait_for(folder, 2)
        time.sleep(random.Random(0).uniform(0, 0.3))
        process.kill()
    with (folder / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"model": "power went off he')
    done = len(model_records_whole(folder))
    assert 2 <= done < 12
    assert convert(names).counts == {"converted": 12}
    assert_whole(folder, names)


def model_records_whole(folder: Path) -> list[str]:
    return [line for line in (folder / "ledger.jsonl").read_text().splitlines()[:-1] if '"model"' in line]


def test_control_c_once_and_twice(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    with start(folder, *tiny_names(2), f"{HOME}:hangs_later") as process:
        wait_for(folder, 2)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        said = next(line for line in process.stdout if "Ctrl-C" in line)
        assert said == "finishing the models in progress; press Ctrl-C again to stop at once\n"
        assert process.poll() is None  # one model is still under way
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 130
    # A model may be done already and not yet told.
    assert rest.splitlines()[-1] == "stopped; run the same command again to continue"
    assert len(model_records(folder)) == 2
    assert (folder / "index.csv").read_text().count("\n") == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and not subprocess.run([mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False).returncode
    if not made or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs to be root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(small_disk: Path) -> None:
    folder = small_disk / "zoo"
    # Two to three megabytes each.
    names = [f"timm:{name}" for name in ("test_convnext2", "test_byobnet", "test_nfnet", "test_mambaout")]
    with start(folder, *names, jobs="1") as process:
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(120) == 1
    assert re.search(r"need about [\d.]+MB \([\d.]+[KM]B are free\)", said.splitlines()[-1])
    assert said.splitlines()[-1].startswith(f"Error: The disk of {folder} is full: the ")
    assert said.splitlines()[-1].endswith("are free); free some space and run the same command again to continue.")
    assert "Traceback" not in said
    assert 0 < len(model_records(folder)) < len(names)
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    with start(folder, *names) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert_whole(folder, names)
