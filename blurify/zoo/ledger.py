"""Append finished work to a ledger, one JSON object a line, flushed to the disk before anything else happens.

Whatever is killed, the file holds every record but perhaps the one that was being written, whose line is cut off when
the file is next opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blurify.errors import FileError
from blurify.zoo.settings import Record


def read_lines(path: Path) -> Iterator[Record]:
    """Yield every object of a file, without a last line that was not written to its end.

    >>> list(read_lines(Path("ledger.jsonl")))
    [{'model': 'timm:resnet18', 'status': 'converted'}]
    """
    content = path.read_bytes() if path.exists() else b""
    whole, _, _ = content.rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise FileError(
                f"line {number} of {path} is not JSON, and it is not the last, so this is not what a crash leaves; "
                "restore the file, or delete it: finished models are found again by their own report.json."
            ) from error


def append_line(path: Path, content: Record) -> None:
    """Append one object, whole and on the disk when this returns, or not at all.

    >>> append_line(Path("ledger.jsonl"), {"model": "timm:resnet18"})
    """
    with path.open("ab") as file:
        size = file.tell()
        try:
            # One write: a reader beside us never sees half a line.
            file.write(json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, size)
            raise


def cut_broken_line(path: Path) -> None:
    """Take away a last line that was not written to its end, so that the next one starts on a line of its own.

    >>> cut_broken_line(Path("ledger.jsonl"))
    """
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


class Ledger:
    """The records of one folder: the last of every model counts, and how many it has is kept.

    >>> ledger = Ledger(Path("ledger.jsonl"))
    >>> ledger.add({"model": "timm:resnet18", "status": "converted"})
    >>> ledger.models["timm:resnet18"]["attempt"]
    1
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models: dict[str, Record] = {}
        # What was ever asked for, in order.
        self.asked: dict[str, None] = {}
        # None of those that cannot be built.
        self.parameters: dict[str, int | None] = {}
        for record in read_lines(path):
            self._take(record)

    def add(self, record: Record) -> Record:
        """Append the record of one attempt at one model, numbered."""
        attempt = self.models.get(record["model"], {}).get("attempt", 0) + 1
        return self._append({"model": record["model"], "attempt": attempt} | record)

    def begin(self, names: list[str], **facts: Any) -> None:
        """Append that a run over these models begins."""
        self._append({"run": names} | facts)

    def weighed(self, parameters: dict[str, int | None]) -> None:
        """Append how many parameters models have, so that this is counted once."""
        self._append({"parameters": parameters})

    def _append(self, record: Record) -> Record:
        append_line(self.path, record)
        self._take(record)
        return record

    def _take(self, record: Record) -> None:
        if "model" in record:
            self.models[record["model"]] = record
            self.asked.setdefault(record["model"])
        elif "run" in record:
            self.asked.update(dict.fromkeys(record["run"]))
        else:
            self.parameters |= record.get("parameters", {})
