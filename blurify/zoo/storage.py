"""Where finished models go: a folder, or any URL that fsspec can write to. A model is there whole or not at all.

In a folder, a model's own folder gets its name when everything in it is on the disk. An object store has no such step,
so there `report.json` comes last, and what has no report is not there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from blurify.errors import ArgumentError, FileError, causes, one_line
from blurify.zoo.settings import FAILED, Record, whole

REPORT = "report.json"
_PART = ".part-"


class Store(Protocol):
    """A place for finished models, by name."""

    where: str

    def part(self) -> Any:
        """Return a context with a folder for files that are not finished, which is gone afterwards."""

    def put(self, part: Path, name: str) -> None:
        """Let what is in the folder be the model of that name, in the place of any that is there."""

    def report(self, name: str) -> Record | None:
        """Return the report of a model that is there."""

    def holds(self, record: Record) -> bool:
        """Return whether all files of a record are there as it says."""


def open_store(where: str) -> Store:
    """Return the store at a path or URL.

    >>> open_store("converted").where
    'converted'
    """
    return UrlStore(where) if is_url(where) else FolderStore(Path(where))


def is_url(where: str) -> bool:
    """Return whether this is a place that a path cannot name.

    >>> is_url("s3://bucket/zoo"), is_url("converted")
    (True, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]+://", where) is not None


def place(name: str) -> str:
    """Return a model's folder below the store.

    >>> place("timm:resnet18"), place("hf-hub:timm/resnet18.a1_in1k")
    ('timm/resnet18', 'hf-hub/timm--resnet18.a1_in1k')
    """
    library, _, rest = name.partition(":")
    return f"{library}/{re.sub(r'[^A-Za-z0-9._=@+-]', '--', rest).lstrip('.-')}"


class FolderStore:
    """A folder of this machine, or one that all machines see."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    @contextmanager
    def part(self) -> Iterator[Path]:
        """Beside where it will be, so that it only has to be renamed."""
        folder = self.root / f"{_PART}{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, part: Path, name: str) -> None:
        """Rename, once all is on the disk."""
        for path in part.iterdir():
            _sync(path)
        _sync(part)
        target = self.root / place(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # Out of the way in one step, so that nobody sees half of it.
            os.replace(target, part.with_name(f"{part.name}-old"))
            shutil.rmtree(part.with_name(f"{part.name}-old"), ignore_errors=True)
        os.replace(part, target)
        _sync(target.parent)

    def report(self, name: str) -> Record | None:
        """Read the model's own report."""
        with suppress(OSError, ValueError):
            found = json.loads((self.root / place(name) / REPORT).read_text())
            return found if isinstance(found, dict) else None
        return None

    def holds(self, record: Record) -> bool:
        """Compare every file's hash."""
        folder = self.root / place(record["model"])
        with suppress(OSError):
            return all(digest(folder / name) == known for name, known in record["files"].items())
        return False

    def clean(self) -> None:
        """Remove what a killed run left unfinished."""
        for leftover in self.root.glob(f"{_PART}*"):
            shutil.rmtree(leftover, ignore_errors=True)


class UrlStore:
    """A place that fsspec writes to, such as a bucket."""

    def __init__(self, where: str) -> None:
        import fsspec

        self.where = where.rstrip("/")
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.where)
        except (ImportError, ValueError) as error:
            fact = one_line(error)
            raise ArgumentError(f"{where} cannot be written to: {fact}; install what it names, or check it.") from error

    @contextmanager
    def part(self) -> Iterator[Path]:
        """On this machine, until it is sent."""
        with tempfile.TemporaryDirectory(prefix="blurify-") as folder:
            yield Path(folder)

    def put(self, part: Path, name: str) -> None:
        """Send all files, the report last."""
        target = f"{self.root}/{place(name)}"
        if self.files.exists(f"{target}/{REPORT}"):
            self.files.rm_file(f"{target}/{REPORT}")
        self.files.makedirs(target, exist_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.name == REPORT):
            self.files.put_file(str(path), f"{target}/{path.name}")

    def report(self, name: str) -> Record | None:
        """Fetch the model's own report."""
        with suppress(OSError, ValueError):
            found = json.loads(self.files.cat_file(f"{self.root}/{place(name)}/{REPORT}"))
            return found if isinstance(found, dict) else None
        return None

    def holds(self, record: Record) -> bool:
        """Compare every file's size: its hash would mean to fetch it, and such stores keep objects whole."""
        folder = f"{self.root}/{place(record['model'])}"
        self.files.invalidate_cache()
        with suppress(OSError):
            return all(self.files.size(f"{folder}/{n}") == known["bytes"] for n, known in record["files"].items())
        return False


def finished(store: Store, name: str, settings: Record, versions: Record) -> Record | None:
    """Return the report of a model that is in the store already, whole, and made as is asked now.

    >>> finished(open_store("converted"), "timm:resnet18", Settings().as_json(), versions())
    """
    found = store.report(name)
    if found is None or found.get("model") != name or found.get("status") == FAILED:
        return None
    if whole(found.get("settings") or {}) != settings or found.get("versions") != versions or "files" not in found:
        return None
    if "missing" in found:
        # What was asked for is not all there, and only a new attempt can tell whether it can be.
        return None
    return found if store.holds(found) else None


def digest(path: Path) -> dict[str, Any]:
    """Return a file's size and SHA-256.

    >>> digest(Path("plan.json"))["bytes"]
    1234
    """
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            size += len(block)
    return {"bytes": size, "sha256": sha.hexdigest()}


def is_full(error: BaseException | None) -> bool:
    """Return whether a full disk led to the error.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(isinstance(each, OSError) and each.errno in full for each in causes(error))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Make the folder if it is not there, and refuse one that cannot be written to.

    >>> check_writable(Path("converted"))
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{_PART}{secrets.token_hex(6)}"
        probe.mkdir()
        probe.rmdir()
    except FileExistsError as error:
        raise FileError(f"The output {folder} is a file, not a folder; name a folder with -o.") from error
    except OSError as error:
        raise FileError(f"{folder} cannot be written to: {error.strerror}; name another folder with -o.") from error
