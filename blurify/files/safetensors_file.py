"""safetensors: a header of names, types and places, then the numbers; nothing in it can be run.

A converted model is its weights and, in the header's metadata under `blurify`, the recipe that a native `.pt` holds.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from blurify.errors import FileError, one_line

SUFFIX = ".safetensors"
_KEY = "blurify"


def looks_like_safetensors(head: bytes) -> bool:
    """Say whether a file begins with the length of a header, which text is no number for, and then the header.

    >>> looks_like_safetensors(b'{"map": {"a": 1}}')
    False
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors by name, or, of a converted model, what a native file of it would hold.

    >>> read_safetensors(Path("model.safetensors"))["fc.bias"].shape
    torch.Size([1000])

    Raises:
        FileError: the file is damaged, or holds types that this torch has not.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    except Exception as error:  # the library raises its own, OSError, and what torch raises
        fact = one_line(error)
        raise FileError(f"{path} is a damaged safetensors file: {fact}; save or copy it again.") from error
    if _KEY not in metadata:
        return tensors
    return {**_recipe(metadata[_KEY], path), "state_dict": tensors}


def to_bytes(content: Mapping[str, Any], path: Path) -> bytes:
    """Return a native file's content as a safetensors file.

    >>> to_bytes(native.to_content(converted, plan, "timm:resnet18"), Path("a.safetensors"))[8:9]
    b'{'

    Raises:
        FileError: not all of it is tensors that the format has.
    """
    recipe = {key: value for key, value in content.items() if key != "state_dict"}
    odd = next((name for name, value in content["state_dict"].items() if not _is_plain(value)), None)
    if odd is not None:
        raise FileError(
            f"{path} cannot be written: {odd} is no plain tensor, and safetensors holds no other; write a .pt instead."
        )
    tensors = _apart(content["state_dict"])
    try:
        return safetensors.torch.save(tensors, {"format": "pt", _KEY: json.dumps(recipe)})
    except Exception as error:
        fact = one_line(error)
        raise FileError(f"{path} cannot be written: {fact}; write a .pt instead.") from error


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each name with numbers of its own, as the format asks; the architecture ties again what it ties."""
    tensors, seen = {}, set()
    for name, value in state.items():
        held = value.detach().cpu().contiguous()
        storage = held.untyped_storage()
        whole = storage.nbytes() == held.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        tensors[name] = held if whole else held.clone()
    return tensors


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not (value.is_quantized or value.is_nested)


def _recipe(text: str, path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} has a recipe that is no JSON; convert the model again.") from error
    if not isinstance(recipe, dict) or recipe.get("format") != _KEY:
        raise FileError(f"{path} has a recipe that is not blurify's; convert the model again.")
    return recipe
