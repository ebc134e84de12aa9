"""Folders as the Hugging Face hub and timm keep models: `config.json` says the architecture, weights lie next to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blurify.errors import FileError, one_line

PREFIX = "local-dir:"
_CONFIG, _OPEN_CLIP = "config.json", "open_clip_config.json"
# The first that is there is taken: what cannot run code before what is read with care.
_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
_MOST_CONFIG_BYTES = 2**24
# What a value must not contain to be an option behind an architecture's name.
_MARKS = ("&", "?")


def weights_in(folder: Path) -> Path:
    """Return the weights of a folder.

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
    """The architecture that the folder's `config.json` names, with its options, or None where there is no such file.

    timm names it itself, smp by a class and its arguments; the configurations of transformers and open_clip are theirs
    to read.

    >>> architecture_in(Path("resnet18.a1_in1k"))
    'timm:resnet18?num_classes=1000'

    Raises:
        FileError: the file is damaged, or says what no option of an architecture can say.
    """
    path = folder / _CONFIG
    if (folder / _OPEN_CLIP).is_file():
        return f"open_clip:local-dir:{folder}"
    if not path.is_file():
        return None
    config = _read(path)
    if "_model_class" in config:
        return _named(path, "smp", config["_model_class"], _arguments(config))
    if config.get("architecture") is not None:
        return _named(path, "timm", config["architecture"], _options(config))
    return f"hf:{folder}" if "model_type" in config else None


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return smp's arguments for the model, without the weights that it was trained from."""
    lacking = ("encoder_weights",)
    return {key: value for key, value in config.items() if key[:1] != "_" and key not in lacking and value is not None}


def _named(path: Path, library: str, name: object, options: Mapping[str, Any]) -> str:
    if not isinstance(name, str) or not name.replace(".", "_").isidentifier():
        raise FileError(f"{path} names the architecture {ascii(name)[:80]}, which is no name; give one with --arch.")
    odd = next((key for key, value in options.items() if not (key.isidentifier() and _is_plain(value))), None)
    if odd is not None:
        raise FileError(
            f"{path} gives {ascii(odd)[:80]} a value that an architecture's name cannot carry; "
            f"name it with --arch {library}:{name}?key=value."
        )
    return f"{library}:{name}" + "".join(
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
