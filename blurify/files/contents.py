"""Read a file's content, of any readable kind; an index brings the shards next to it."""

from __future__ import annotations

import json
import stat
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from blurify.errors import FileError, quoted
from blurify.files.checkpoint import is_state_dict
from blurify.files.safetensors_file import read_safetensors
from blurify.files.untrusted.container import identify, read_object
from blurify.files.untrusted.safety import NOBODY, Trust

_MOST_INDEX_BYTES = 2**26


def read_contents(path: Path, trust: Trust = NOBODY, max_size: int | None = None) -> Any:
    """Return what is in a file, running nothing that is not allowed; shards are put together.

    >>> read_contents(Path("model.safetensors.index.json"))["fc.bias"].shape
    torch.Size([1000])

    Raises:
        FileError: it cannot be read, or is larger than `max_size` bytes.
        UnsafeFileError: it would run something.
    """
    kind = identify(path)
    check_size([path], path, max_size)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "index":
        return _read_shards(path, trust, max_size)
    return read_object(path, trust)


def _read_shards(index: Path, trust: Trust, max_size: int | None) -> dict[str, Any]:
    places = _places(index)
    shards = {name: _shard(index, name) for name in sorted(set(places.values()))}
    check_size(list(shards.values()), index, max_size)
    state: dict[str, Any] = OrderedDict()
    for name, shard in shards.items():
        kind = identify(shard)
        if kind == "index":
            _refuse(index, f"{quoted(name)} is an index again")
        content = read_safetensors(shard) if kind == "safetensors" else read_object(shard, trust)
        if not is_state_dict(content):
            _refuse(index, f"{quoted(name)} is no part of a state_dict")
        listed = {key for key, place in places.items() if place == name}
        if listed != set(content):
            odd = min(listed.symmetric_difference(content), key=str)
            _refuse(index, f"{quoted(name)} and the index do not agree about {quoted(odd)}")
        state.update(content)
    return state


def _places(index: Path) -> dict[str, str]:
    """Which file every name is in."""
    try:
        if index.stat().st_size > _MOST_INDEX_BYTES:
            _refuse(index, f"it is larger than {_MOST_INDEX_BYTES} bytes")
        places = json.loads(index.read_bytes())["weight_map"]
    except FileError:
        raise
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise FileError(f"{index} is JSON without a weight_map; give the weights or the index of shards.") from error
    if not isinstance(places, Mapping) or not places or not all(isinstance(place, str) for place in places.values()):
        _refuse(index, "its weight_map does not map names to files")
    return dict(places)


def _shard(index: Path, name: str) -> Path:
    """The file of that name next to the index; a link may lead to where the cache of the Hugging Face hub keeps it."""
    if not name.isprintable() or any(mark in name for mark in '/\\:*?"<>|') or name in ("", ".", ".."):
        _refuse(index, f"it names {quoted(name)}, which is not a file next to it")
    path, folder = index.parent / name, index.parent.resolve()
    try:
        real, mode = path.resolve(strict=True), path.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise FileError(f"{index} names {quoted(name)}, which is not next to it; copy all shards.") from error
    if real.parent not in (folder, folder.parent.parent / "blobs"):
        _refuse(index, f"it names {quoted(name)}, a link to another folder")
    if not stat.S_ISREG(mode):
        _refuse(index, f"it names {quoted(name)}, which is no file")
    return path


def check_size(paths: list[Path], given: Path, max_size: int | None) -> None:
    """Refuse files that are together larger than is allowed.

    >>> check_size([Path("weights.pt")], Path("weights.pt"), 2**30)
    """
    size = sum(path.stat().st_size for path in paths)
    if max_size is not None and size > max_size:
        raise FileError(
            f"{given} holds {size} bytes, more than the {max_size} that --max-size allows; raise it, if that is right."
        )


def _refuse(index: Path, fact: str) -> NoReturn:
    raise FileError(f"{index} cannot be read as an index of shards: {fact}; download it again.")
