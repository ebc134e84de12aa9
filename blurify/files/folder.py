"""Folders as the Hugging Face hub and timm keep models: `config.json` says the architecture, weights lie beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blurify.errors import FileError, one_line

PREFIX = "local-dir:"
_CONFIG = "config.json"
# The first that is there is taken: what cannot run code before what is read with care.
_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_MOST_CONFIG_BYTES = 2**24
# What a value must not contain to be an option behind an architecture's name.
_MARKS = ("&", "?")


def weights_in(folder: Path) -> Path:
    """The weights of a folder.

    >>> weights_in(Path("resnet18.a1_in1k"))
    PosixPath('resnet18.a1_in1k/model.safetensors')

    Raises:
        FileError: it has none of the usual names.
    """
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise FileError(
            f"{folder} is a folder, not a model file; give the file in it, or a folder with {' or '.join(_WEIGHTS)}."
        )
    return found


def architecture_in(folder: Path) -> str | None:
    """The architecture that timm's `config.json` names, with its options, or None where there is no such file.

    >>> architecture_in(Path("resnet18.a1_in1k"))
    'timm:resnet18?num_classes=1000'

    Raises:
        FileError: the file is damaged, or says what no option of an architecture can say.
    """
    path = folder / _CONFIG
    if not path.is_file():
        return None
    config = _read(path)
    name = config.get("architecture")
    if name is None:
        return None
    if not isinstance(name, str) or not name.replace(".", "_").isidentifier():
        raise FileError(f"{path} names the architecture {ascii(name)[:80]}, which is no name; give one with --arch.")
    options = _options(config)
    odd = next((key for key, value in options.items() if not (key.isidentifier() and _is_plain(value))), None)
    if odd is not None:
        raise FileError(
            f"{path} gives {ascii(odd)[:80]} a value that an architecture's name cannot carry; "
            f"name it with --arch timm:{name}?key=value."
        )
    return f"timm:{name}" + "".join(
        f"{'&' if at else '?'}{key}={value}" for at, (key, value) in enumerate(options.items())
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        fact = one_line(error)
        raise FileError(f"{path} cannot be read: {fact}; name the architecture with --arch.") from error
    if not isinstance(config, dict):
        raise FileError(f"{path} holds no JSON object; name the architecture with --arch.")
    return config


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return timm's arguments for the model: older files have the fields of `pretrained_cfg` at the top."""
    held = config.get("pretrained_cfg", config)
    fields: Mapping[str, Any] = held if isinstance(held, Mapping) else {}
    options = {"num_classes": config.get("num_classes", fields.get("num_classes"))}
    size = fields.get("input_size")
    if isinstance(size, list) and size and size[0] != 3:
        options["in_chans"] = size[0]
    given = config.get("model_args")
    options |= given if isinstance(given, Mapping) else {}
    return {str(key): value for key, value in options.items() if value is not None}


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, str):
        return value.isprintable() and not any(mark in value for mark in _MARKS)
    return isinstance(value, (bool, int, float))
