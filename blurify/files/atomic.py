"""Writing that leaves either the whole new file or what was there before."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from blurify.errors import FileError

# What a reader would take for another format than it is.
UNWRITTEN = frozenset({".h5", ".npz"})


def check_output(path: Path, *, source: Path | None = None, force: bool = False) -> None:
    """Refuse, before any slow work, an output that could not or must not be written.

    >>> check_output(Path("model.blur4.pt"), source=Path("model.pt"))
    """
    if path.suffix.lower() in UNWRITTEN:
        raise FileError(
            f"{path.suffix} files are not written; name the output {path.stem}.pt or {path.stem}.pt2 with -o."
        )
    if path.is_dir():
        raise FileError(f"The output {path} is a folder; name a file in it with -o.")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise FileError(f"The output {path} is the input itself; name another file with -o.")
    # A link counts even if it leads nowhere; writing replaces the link, and never what it leads to.
    if os.path.lexists(path) and not force:
        raise FileError(f"The output {path} exists already; name another with -o, or overwrite it with --force.")
    if not path.parent.is_dir():
        raise FileError(f"The output's folder {path.parent} does not exist; make it, or name another with -o.")
    # Permission bits do not tell the whole truth (read-only mounts, root); only trying does.
    _remove(_open_beside(path))


Check = Callable[[Path], None]


def write_atomically(path: Path, write: Callable[[BinaryIO], None], check: Check | None = None) -> None:
    """Call `write` on a temporary file in the same folder, then rename it to `path`; on failure leave no trace.

    What `check` raises of the temporary file is a failure, too.

    >>> write_atomically(Path("a.txt"), lambda file: file.write(b"hello"))
    """
    temporary, file = _open_beside(path)
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}; the folder is as it was.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _open_beside(path: Path) -> tuple[Path, BinaryIO]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Not tempfile.mkstemp: its private permissions would stay on the finished file.
        return temporary, temporary.open("xb")
    except OSError as error:
        message = f"{path.parent} cannot be written to: {error.strerror or error}; name another folder with -o."
        raise FileError(message) from error


def _remove(opened: tuple[Path, BinaryIO]) -> None:
    temporary, file = opened
    file.close()
    temporary.unlink()
