"""A run's own folder: whose it is, who works in it, and its ledger. One process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from blurify.errors import FileError
from blurify.files.atomic import write_atomically
from blurify.zoo.ledger import Ledger, cut_broken_line
from blurify.zoo.settings import Settings, whole
from blurify.zoo.storage import FolderStore, check_writable

# What says that a folder is a zoo's, and of which settings.
MARK = "zoo.json"
LEDGER = "ledger.jsonl"
_LOCK, _PROCESS = ".lock", ".process"


@contextmanager
def opened(folder: Path, settings: Settings, where: str) -> Iterator[Ledger]:
    """Return the ledger of a folder that is this process's alone until the end of the block.

    >>> with opened(Path("converted"), Settings(), "converted") as ledger:
    ...     ledger.models

    Raises:
        FileError: the folder cannot be written to, is another program's, of other settings, or in use.
    """
    _check_ours(folder)
    check_writable(folder)
    with _locked(folder):
        _check_settings(folder / MARK, {"blurify": "zoo", "settings": settings.as_json(), "output": where})
        cut_broken_line(folder / LEDGER)
        FolderStore(folder).clean()
        yield Ledger(folder / LEDGER)


@dataclass(frozen=True)
class State:
    """Describe a folder to a reader: the run that holds its lock, and the finished work."""

    process: int | None
    settings: dict[str, Any]
    output: str
    ledger: Ledger


def inspect(folder: Path) -> State:
    """Read a folder, whether or not a run is under way in it.

    >>> inspect(Path("converted")).process

    Raises:
        FileError: the folder is none of a zoo's.
    """
    mark = folder / MARK
    if not mark.is_file():
        raise FileError(f"{folder} has no {MARK}, so no zoo was converted into it; name the folder given with -o.")
    content = _read_mark(mark)
    return State(holder(folder), content["settings"], content["output"], Ledger(folder / LEDGER))


def holder(folder: Path) -> int | None:
    """Return the process that works in the folder, if one does.

    >>> holder(Path("converted"))
    """
    if not (folder / _LOCK).exists():
        return None
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return None
    except Timeout:
        return _process(folder)


def _check_ours(folder: Path) -> None:
    if folder.is_dir() and not (folder / MARK).exists():
        # A run that was killed at its very start leaves its lock.
        strange = next((path for path in sorted(folder.iterdir()) if not path.name.startswith(".")), None)
        if strange is not None:
            raise FileError(
                f"{folder} holds {strange.name} and no {MARK}, so it is not a zoo's; name an empty or a new folder."
            )


def _check_settings(mark: Path, wanted: dict[str, Any]) -> None:
    if not mark.exists():
        write_atomically(mark, lambda file: _dump(wanted, file))
        return
    there = _read_mark(mark)
    for key, value in {**wanted["settings"], "output": wanted["output"]}.items():
        known = there["output"] if key == "output" else whole(there["settings"]).get(key)
        if known != value:
            raise FileError(
                f"{mark.parent} was begun with {key} {said(known)}, not {said(value)}; "
                "go on with the same, or name another folder."
            )


def said(value: object) -> str:
    """Return a setting as it reads in a sentence.

    >>> said(["native"]), said(4)
    ('native', '4')
    """
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _dump(content: dict[str, Any], file: Any) -> None:
    file.write(json.dumps(content, indent=1).encode() + b"\n")


def _read_mark(mark: Path) -> dict[str, Any]:
    try:
        content = json.loads(mark.read_text())
        if content["blurify"] == "zoo" and isinstance(content["settings"], dict) and isinstance(content["output"], str):
            return dict(content)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise FileError(f"{mark} is not what a run writes; restore it, or name another folder.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The system releases the lock when the process ends, however it ends. `holder` takes it for a moment.
    try:
        held = FileLock(folder / _LOCK).acquire(timeout=0.5)
    except Timeout as error:
        raise FileError(
            f"Process {_process(folder) or 'of another machine'} is converting into {folder} already; "
            "wait for it, or name another folder."
        ) from error
    with held:
        (folder / _PROCESS).write_text(str(os.getpid()))
        yield


def _process(folder: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((folder / _PROCESS).read_text())
    return None
