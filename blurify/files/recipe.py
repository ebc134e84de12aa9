"""Read blurify's own format, and check every field before anything is built: the file may be anybody's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from blurify.errors import FileError, quoted

VERSION = 2

FIELDS = ("format", "version", "recipe", "state_dict")
RECIPE_FIELDS = ("arch", "plan", "form", "versions", "input_shapes")
MODEL_FORMS = ("class", "graph")
MOST_CHARACTERS = 1000  # of a name that is shown in messages; architectures with options are far shorter
MOST_ELEMENTS = 2**26  # of an input that the model is traced on; an image of 4096x4096 has 3 * 2**24
# What torch's `get_extra_state` gives has this name, and may be anything.
EXTRA_STATE = "_extra_state"


@dataclass(frozen=True)
class Recipe:
    """How a converted model is made again, and of what versions it was."""

    arch: str
    plan: str
    form: str
    versions: Mapping[str, str]
    input_shapes: tuple[tuple[int, ...], ...]


def read_recipe(content: Mapping[str, Any], path: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe and the state_dict of a file in our own format.

    >>> recipe, state = read_recipe(torch.load("model.blur4.pt"), Path("model.blur4.pt"))
    """
    _check_version(content.get("version"), path)
    _check_known(content, FIELDS, "it", path)
    given, state = content.get("recipe"), content.get("state_dict")
    if not isinstance(given, dict) or not isinstance(state, dict):
        _refuse(path, "lacks its recipe or its weights")
    _check_known(given, RECIPE_FIELDS, "its recipe", path)
    plan = given.get("plan")
    if not isinstance(plan, str):
        _refuse(path, f"its plan is {_short(plan)}, not text")
    recipe = Recipe(
        _name(given.get("arch"), "its arch", path),
        plan,
        _form(given, path),
        _versions(given.get("versions"), path),
        _shapes(given.get("input_shapes"), path),
    )
    return recipe, _state(state, path)


def _check_version(version: object, path: Path) -> None:
    if type(version) is int and version > VERSION:
        raise FileError(
            f"{path} is in version {_short(version)} of blurify's format, and this blurify reads up to {VERSION}; "
            "upgrade blurify."
        )
    if type(version) is not int or version < 1:
        _refuse(path, f"its version is {_short(version)}, not 1 to {VERSION}")


def _check_known(given: Mapping[Any, Any], known: Iterable[str], name: str, path: Path) -> None:
    for key in given:
        if key not in known:
            _refuse(path, f"{name} has the unknown field {_short(key)}")


def _name(value: object, name: str, path: Path) -> str:
    if not isinstance(value, str):
        _refuse(path, f"{name} is {_short(value)}, not text")
    if len(value) > MOST_CHARACTERS or not value.isprintable():
        _refuse(path, f"{name} is {_short(value)}, not a printable name of at most {MOST_CHARACTERS} characters")
    return value


def _form(given: Mapping[str, Any], path: Path) -> str:
    # Version 1 knew graphs alone.
    form = given.get("form", "graph")
    if form not in MODEL_FORMS:
        _refuse(path, f"its form is {_short(form)}, which is none of {', '.join(MODEL_FORMS)}")
    return str(form)


def _versions(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse(path, f"its versions are {_short(value)}, not a dict")
    return {
        _name(key, "a package of its versions", path): _name(version, f"its version of {_short(key)}", path)
        for key, version in value.items()
    }


def _shapes(value: object, path: Path) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(shape, list) for shape in value):
        _refuse(path, f"its input_shapes are {_short(value)}, not a list of lists of sizes")
    sizes = [size for shape in value for size in shape]
    if any(type(size) is not int or size < 0 for size in sizes):
        _refuse(path, "its input_shapes hold what is no size")
    if sum(prod(shape) for shape in value) > MOST_ELEMENTS or len(sizes) > MOST_CHARACTERS:
        _refuse(path, f"its input_shapes are of more than {MOST_ELEMENTS} elements")
    return tuple(tuple(shape) for shape in value)


def _state(given: dict[Any, Any], path: Path) -> dict[str, Any]:
    """Return the state_dict in a dict of our own, since the file's may have attributes in its methods' place."""
    for key, value in dict.items(given):
        if not isinstance(key, str):
            _refuse(path, f"its weights have the name {_short(key)}, which is no text")
        if key.rpartition(".")[2] != EXTRA_STATE:
            _check_tensor(key, value, path)
    state: dict[str, Any] = OrderedDict(dict.items(given))
    metadata = vars(given).get("_metadata") if isinstance(given, OrderedDict) else None
    if metadata is not None:
        state._metadata = _metadata(metadata, path)  # type: ignore[attr-defined]
    return state


def _check_tensor(key: str, value: object, path: Path) -> None:
    if not isinstance(value, Tensor):
        _refuse(path, f"its weight {_short(key)} is {_short(value)}, not a tensor")
    if value.is_nested or value.is_quantized or value.is_meta or value.layout is not torch.strided:
        _refuse(path, f"its weight {_short(key)} is no plain tensor of numbers")


def _metadata(value: object, path: Path) -> OrderedDict[str, dict[str, Any]]:
    """Return the versions that modules write into a state_dict, by which some read an older one."""
    if not isinstance(value, dict):
        _refuse(path, f"the metadata of its weights is {_short(value)}, not a dict")
    for key, local in dict.items(value):
        version = local.get("version") if isinstance(key, str) and type(local) is dict else ""
        if version is not None and type(version) is not int:
            _refuse(path, f"the metadata of its weights says {_short(local)} of {_short(key)}")
    return OrderedDict(dict.items(value))


def _refuse(path: Path, fact: str) -> NoReturn:
    raise FileError(f"{path} is in blurify's format but {fact}; convert the model again.")


def _short(value: object) -> str:
    """Return a value as it fits into one sentence."""
    if value is None or isinstance(value, (bool, float, str)) or (type(value) is int and value.bit_length() < 200):
        return quoted(value)
    return f"a {type(value).__name__}"
