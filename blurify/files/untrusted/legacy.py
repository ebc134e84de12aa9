"""Files of `torch.save` before torch 1.6: four pickles in a row, then the raw storages.

A whole module in such a file stores, beside each module class, the class's source text, as a persistent id
`("module", class, file, source)`. torch's weights-only unpickler accepts only storages there. The text is never
needed, so the pickle is rewritten with the bare class in that place, then read by the same restricted unpickler as any.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from blurify.files.untrusted.pickled import Following

_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLES_BEFORE = 3  # magic number, protocol version, facts about the machine
_PUTS = {"BINPUT", "LONG_BINPUT"}
_GETS = {"BINGET", "LONG_BINGET"}


@dataclass(frozen=True)
class _Op:
    name: str
    arg: Any
    code: bytes


def is_legacy(head: bytes) -> bool:
    """Say whether a file's first bytes are those of the old format.

    >>> is_legacy(b"PK")
    False
    """
    return head[:1] == b"\x80" and head[2:].startswith(_MAGIC)


def without_class_sources(path: Path) -> io.BytesIO:
    """Return the file with each `("module", class, file, source)` in it replaced by the class.

    >>> model = torch.load(without_class_sources(Path("old.pt")), weights_only=True)
    """
    before, body, after = _parts(path)
    return io.BytesIO(before + body + after)


def as_zip(path: Path) -> io.BytesIO:
    """Return the file's object pickle inside today's container, so that torch can list the names it uses.

    >>> torch.serialization.get_unsafe_globals_in_checkpoint(as_zip(Path("old.pt")))
    ['torch.nn.modules.linear.Linear']
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _parts(path)[1])
        archive.writestr("archive/version", b"3\n")
    buffer.seek(0)
    return buffer


def follow(path: Path, callable_names: Collection[str], bare: Collection[str] = ()) -> set[str]:
    """Refuse a file whose pickles would make what is not in it; return the names of what items are put into.

    >>> follow(Path("old.pt"), ())
    {'collections.OrderedDict'}

    Raises:
        FileError: they would, or are damaged.
    """
    before, body, after = _parts(path)
    # A header, and behind the object the keys of its storages: plain values, for which nothing is called.
    for data in (*_in_a_row(before, _PICKLES_BEFORE), *_in_a_row(after, 1)):
        Following(path).follow(data)
    room, taken = path.stat().st_size, {}

    def stored(key: str, nbytes: int) -> int | None:
        taken[key] = nbytes
        return nbytes if sum(taken.values()) <= room else None

    following = Following(path, callable_names, stored, bare)
    following.follow(body)
    return following.filled


def _in_a_row(data: bytes, count: int) -> list[bytes]:
    pickles = []
    for _ in range(count):
        pickles.append(_one_pickle(data))
        data = data[len(pickles[-1]) :]
    return pickles


def _parts(path: Path) -> tuple[bytes, bytes, bytes]:
    data = path.read_bytes()
    start = sum(map(len, _in_a_row(data, _PICKLES_BEFORE)))
    raw = _one_pickle(data[start:])
    return data[:start], b"".join(_replace_sources(list(_ops(raw)))), data[start + len(raw) :]


def _one_pickle(data: bytes) -> bytes:
    # In memory: a file is asked for as many bytes as a damaged length says, and makes room for them first.
    buffer = io.BytesIO(data)
    for _ in pickletools.genops(buffer):
        pass
    return data[: buffer.tell()]


def _ops(raw: bytes) -> Iterator[_Op]:
    found = [(opcode.name, arg, position or 0) for opcode, arg, position in pickletools.genops(raw)]
    ends = [position for _, _, position in found[1:]] + [len(raw)]
    for (name, arg, position), end in zip(found, ends, strict=True):
        yield _Op(name, arg, raw[position:end])


def _replace_sources(ops: list[_Op]) -> Iterator[bytes]:
    """Give the pickle's code back, each module's persistent id shrunk to its class."""
    lost: dict[int, bytes] = {}  # memo slots whose string was dropped: a later use gets the string itself
    position = 0
    for start, stop in _module_ids(ops):
        yield from (_code(op, lost) for op in ops[position:start])
        yield from _class_of(ops[start:stop], lost)
        position = stop
    yield from (_code(op, lost) for op in ops[position:])


def _module_ids(ops: list[_Op]) -> Iterator[tuple[int, int]]:
    """Find each run of ops from a MARK to the BINPERSID that holds a module's class and source."""
    texts: dict[int, Any] = {}
    mark = 0
    for index, op in enumerate(ops):
        if op.name == "MARK":
            mark = index
        elif op.name in _PUTS:
            texts[op.arg] = ops[index - 1].arg
        elif op.name == "BINPERSID":
            first = ops[mark + 1]
            if (texts.get(first.arg) if first.name in _GETS else first.arg) == "module":
                yield mark, index + 1


def _class_of(ops: list[_Op], lost: dict[int, bytes]) -> Iterator[bytes]:
    for op, after in pairwise(ops):
        if op.name == "GLOBAL":
            yield op.code + (after.code if after.name in _PUTS else b"")
        elif after.name in _PUTS and op.name == "BINUNICODE":
            lost[after.arg] = op.code


def _code(op: _Op, lost: dict[int, bytes]) -> bytes:
    return lost.get(op.arg, op.code) if op.name in _GETS else op.code
