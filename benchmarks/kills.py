"""Kill a bulk run at random moments, go on, and see that every model is there exactly once.

`python -m benchmarks.kills [--quick]`: 20 times SIGKILL, of the run or of a process below it, over 60 models.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from blurify.zoo.storage import FolderStore, place
from tests.zoo.subjects import tiny_names


def start(folder: Path, names: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "blurify", "zoo", *names, "-o", str(folder), "--jobs", "2", "--retry-failed"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def count(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return ledger.read_text().count('{"model"') if ledger.exists() else 0


def workers(parent: int) -> list[int]:
    """Processes below the run, those that are in the middle of a model among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) in (parent, *found):
            found.append(int(stat.parent.name))
    return found


def kill_once(folder: Path, names: list[str], dice: random.Random, number: int) -> str:
    """Start, wait for some progress and a random moment more, kill the run or a worker; say which."""
    goal = min(count(folder) + dice.randrange(0, 4), len(names) - 1)
    with start(folder, names) as run:
        while run.poll() is None and (count(folder) < goal or not (folder / "ledger.jsonl").exists()):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 1.5))
        below = workers(run.pid)
        target = dice.choice(below) if number % 3 == 2 and below else run.pid
        if run.poll() is None:
            os.kill(target, signal.SIGKILL)
        time.sleep(0.5)
        run.kill()
    return "the run" if target == run.pid else "a process below it"


def check(folder: Path, names: list[str]) -> str:
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    records = [line for line in lines if "model" in line]
    last = {record["model"]: record for record in records}
    good = Counter(record["model"] for record in records if record["status"] == "converted")
    rows = [row["model"] for row in csv.DictReader((folder / "index.csv").read_text().splitlines())]
    store = FolderStore(folder)
    whole = sum(store.holds(last[name]) for name in names if name in last)
    left = [path for path in folder.rglob("*") if path.name.startswith(".part")]
    extra = {p.parent.name for p in folder.rglob("report.json")} - {Path(place(name)).name for name in names}
    assert sorted(rows) == sorted(names)
    assert all(good[name] == 1 for name in names), good
    assert whole == len(names)
    assert not left
    assert not extra
    failed = len(records) - len(names)
    return (
        f"{whole} models present and verified, each once in the index; {failed} attempts ended with their killed worker"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three kills, ten models")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = tiny_names(10 if options.quick else 60)
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "zoo"
        for number in range(3 if options.quick else 20):
            killed = kill_once(folder, names, dice, number)
            print(f"kill {number + 1}: {killed}; {count(folder)} records", flush=True)
        with start(folder, names) as run:
            if run.wait():
                print(f"the last run ended with exit code {run.returncode}")
        print(check(folder, names))


if __name__ == "__main__":
    main()
