"""The architectures that weights may be of, by the names and sizes of the weights.

An index has a sketch of every architecture of timm and torchvision: the smallest hashes of its weights' names and
sizes. A state_dict that holds nearly all of them may be that architecture's, which is then built on the meta device and
compared name by name. `python -m benchmarks.architectures` makes the index.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import ArchitectureError, BlurifyError
from blurify.files.architecture import build_architecture

INDEX = Path(__file__).with_name("architectures.json.gz")
# Hashes in a sketch, and how many of them a state_dict must have: a classifier may be of another size.
SIZE, ENOUGH = 8, 6
_DIGITS = 8
_MAY_LACK = "num_batches_tracked"
_SHOWN = 4
# A prefix of most names is no part of the architecture's.
_DEEPEST = 4


@dataclass(frozen=True)
class Guess:
    """An architecture, and how many of its weights the state_dict has, of how many."""

    arch: str
    fitting: int
    weights: int


def sketch(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the smallest hashes of names and sizes, as one text.

    >>> len(sketch({"fc.weight": (10, 512), "fc.bias": (10,)}))
    16
    """
    return "".join(sorted(_hashes(shapes))[:SIZE])


def _hashes(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    return {
        hashlib.blake2b(f"{name}:{','.join(map(str, shape))}".encode(), digest_size=_DIGITS // 2).hexdigest()
        for name, shape in shapes.items()
        if not name.endswith(_MAY_LACK)
    }


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the tensors by name."""
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


@lru_cache
def _index() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(gzip.decompress(INDEX.read_bytes()))
    return found


def guesses(states: Iterable[Mapping[str, Any]]) -> list[Guess]:
    """Return the architectures that one of the state_dicts fits best.

    >>> [guess.arch for guess in guesses([torchvision.models.alexnet().state_dict()])]
    ['torchvision:alexnet']
    """
    found: dict[str, Guess] = {}
    for state in states:
        for shapes in _below_prefixes(shapes_of(state)):
            for arch in _candidates(_hashes(shapes)):
                guess = _compared(arch, shapes)
                if guess is not None and guess.fitting >= found.get(guess.arch, guess).fitting:
                    found[guess.arch] = guess
    most = max((guess.fitting for guess in found.values()), default=0)
    return [guess for guess in found.values() if guess.fitting == most]


def _below_prefixes(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[dict[str, tuple[int, ...]]]:
    """Yield the weights below every prefix that most names may have, by the rest of their names."""
    parts = {name: name.split(".") for name in shapes}
    starts = {".".join(words[:depth]) for words in parts.values() for depth in range(min(len(words), _DEEPEST))}
    for start in sorted(starts, key=len):
        below = {name[len(start) :].lstrip("."): shape for name, shape in shapes.items() if _is_below(name, start)}
        if 3 * len(below) > len(shapes):
            yield below


def _is_below(name: str, start: str) -> bool:
    return not start or name.startswith(f"{start}.")


def _candidates(hashes: set[str]) -> list[str]:
    found = []
    for text, names in _index().items():
        own = [text[at : at + _DIGITS] for at in range(0, len(text), _DIGITS)]
        if len(hashes.intersection(own)) >= len(own) - (SIZE - ENOUGH):
            found += names
    return found


def _compared(arch: str, shapes: Mapping[str, tuple[int, ...]]) -> Guess | None:
    """Return how the architecture fits, with the state_dict's number of classes; None if less than most of it does."""
    try:
        own = shapes_of(_on_meta(arch).state_dict())
        classes = _classes(own, shapes)
        arch = arch if classes is None else f"{arch}?num_classes={classes}"
        own = own if classes is None else shapes_of(_on_meta(arch).state_dict())
    except BlurifyError:  # this version of the library has no such architecture
        return None
    fitting = sum(shapes.get(name) == shape for name, shape in own.items())
    return Guess(arch, fitting, len(own)) if 10 * fitting > 9 * len(own) else None


def _classes(own: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of classes, if that alone differs."""
    other = {(own[name][:1], shapes[name][:1]) for name in own if name in shapes and own[name] != shapes[name]}
    rest = all(own[name][1:] == shapes[name][1:] for name in own if name in shapes)
    return next(iter(other))[1][0] if len(other) == 1 and rest and own else None


def _on_meta(arch: str) -> nn.Module:
    with torch.device("meta"):
        return build_architecture(arch)


def text_of(found: list[Guess]) -> str:
    """Return what to type, given the guesses; nothing where there are none.

    >>> text_of([Guess("timm:resnet50", 161, 161)])
    'these are the weights of timm:resnet50 (161 of 161 fit): add --arch timm:resnet50'
    """
    if not found:
        return ""
    names = [guess.arch for guess in found]
    shown = " or ".join(names[:_SHOWN]) + (
        f" ({len(names) - _SHOWN} others fit as well)" if len(names) > _SHOWN else ""
    )
    return (
        f"these are the weights of {shown} ({found[0].fitting} of {found[0].weights} fit): "
        f"add --arch {_quoted(names[0])}"
    )


def _quoted(name: str) -> str:
    return f"'{name}'" if "?" in name else name


def only(found: list[Guess], path: Path, same: Callable[[list[str]], bool]) -> str:
    """Return the one architecture that the weights fit, or the first of several that are the `same` with them.

    Raises:
        ArchitectureError: there is none, or they differ.
    """
    if not found:
        raise ArchitectureError(
            f"{path} fits no architecture of timm or torchvision; name it with --arch package.module:factory."
        )
    if len(found) > 1 and not (len(found) <= _SHOWN and same([guess.arch for guess in found])):
        names = " or ".join(f"--arch {_quoted(guess.arch)}" for guess in found[:_SHOWN])
        raise ArchitectureError(f"{path} fits {len(found)} architectures, which may compute different things: {names}.")
    return found[0].arch
