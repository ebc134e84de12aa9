"""Plain pickles of arrays, as detectron2's model zoo has them: read by Python's own slow unpickler, told what to make.

Whatever a file names becomes a stand-in, but for arrays and plain containers. So no code of any package is run.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

from blurify.errors import FileError, one_line
from blurify.files.untrusted.instances import check_instances, inside
from blurify.files.untrusted.safety import refusal
from blurify.files.untrusted.stand_ins import may_stand_in, stand_in, without_stand_ins

_KEYS = (str, bytes, int, float, bool, type(None))
_CONTAINERS: dict[str, Any] = {"collections.OrderedDict": OrderedDict}
_ENCODE = ("_codecs.encode", "codecs.encode")
# The C unpickler makes room for a memo of as many entries as a file says; Python's own is a dict.
_Python: Any = pickle._Unpickler


def looks_plain(head: bytes) -> bool:
    """Say whether a file begins as a pickle of protocol 2 or later.

    >>> looks_plain(b"PK")
    False
    """
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def read_plain(path: Path) -> Any:
    """Return what is in a plain pickle, of numbers, text, containers and arrays alone.

    Raises:
        UnsafeFileError: it is made of other objects.
        FileError: it is damaged.
    """
    reader = _Reader(path)
    try:
        content = reader.load()
    except FileError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise FileError(f"{path} cannot be read: {one_line(error)}; save or copy it again.") from error
    check_instances(content, path)
    kept, needed = without_stand_ins(content, inside)
    if kept is None or needed:
        raise FileError(
            f"{path} is a plain pickle of objects ({', '.join(sorted(needed or reader.unknown))[:200]}), of which only "
            "arrays are read; save the model's state_dict with torch.save."
        )
    return kept


class _Reader(_Python):  # type: ignore[misc]
    """Python's unpickler, which finds only stand-ins, and puts only text and numbers into dicts' keys and sets."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.BytesIO(path.read_bytes()), encoding="latin1")
        self.path, self.unknown = path, set[str]()
        # One object for all that is encoded from one text, so that a file cannot multiply it.
        self.encoded: dict[str, bytes] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a container, an array's maker or a stand-in."""
        full = f"{module}.{name}"
        if not full.isprintable() or (not may_stand_in(full) and full not in (*_CONTAINERS, *_ENCODE)):
            raise refusal(self.path, [ascii(full)[1:-1][:80]])
        if full in _CONTAINERS:
            return _CONTAINERS[full]
        if full in _ENCODE:
            return self._encoded
        self.unknown.add(full)
        return stand_in(full, is_mapping=False)

    def get_extension(self, code: int) -> NoReturn:
        """Refuse objects of the registry of the process."""
        raise FileError(f"{self.path} names extension {code}, which is no part of a file; save it again.")

    def _encoded(self, text: str, encoding: Any = "latin1") -> bytes:
        """Return the bytes of text, as old protocols write them."""
        return self.encoded.setdefault(text, text.encode("latin1" if encoding == "latin1" else "utf-8"))

    def load_build(self) -> None:
        """Refuse to change what is no object of the file."""
        if isinstance(self.stack[-2], type) or callable(self.stack[-2]):
            raise FileError(f"{self.path} is damaged: it changes a class; download it again.")
        _Python.load_build(self)

    def load_bytearray8(self) -> None:
        """Read a buffer, for which Python's own reader makes room before it is read."""
        self.append(bytes(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitems(self) -> None:
        """Refuse keys that may take for ever to hash."""
        self._check(self.stack[::2])
        _Python.load_setitems(self)

    def load_setitem(self) -> None:
        """Refuse a key that may take for ever to hash."""
        self._check(self.stack[-2:-1])
        _Python.load_setitem(self)

    def load_additems(self) -> None:
        """Refuse members that may take for ever to hash."""
        self._check(self.stack)
        _Python.load_additems(self)

    def load_frozenset(self) -> None:
        """Refuse members that may take for ever to hash."""
        self._check(self.stack)
        _Python.load_frozenset(self)

    def _check(self, keys: list[Any]) -> None:
        if not all(isinstance(key, _KEYS) for key in keys):
            raise FileError(f"{self.path} has a dict whose keys are neither text nor numbers; save it again.")

    dispatch = _Python.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEMS[0]: load_setitems,
        pickle.SETITEM[0]: load_setitem,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }
