"""From what a user types to the names of models: `resnet*`, `torchvision:*`, `resnet50.*_in1k`, `hf-hub:ORG/NAME`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from blurify.errors import ArgumentError
from blurify.files.architecture import LIBRARIES

# Not in any list: taken as they are.
SOURCES = ("hf-hub", "local-dir")
_MAGIC = "*?["


def choose(
    patterns: Iterable[str], *, exclude: Iterable[str] = (), pretrained: bool = False, tag_filter: str | None = None
) -> list[str]:
    """Return the models that any of the patterns matches and none of `exclude` does, sorted.

    >>> choose(["resnet18", "torchvision:resnet18"])
    ['timm:resnet18', 'torchvision:resnet18']
    >>> choose(["resnet18.*_in1k"])[:2]
    ['timm:resnet18.a1_in1k', 'timm:resnet18.a2_in1k']

    A pattern without a colon is of timm; one with a dot is of timm's names with the tag of their weights. Names of
    `hf-hub:`, `local-dir:` and `package.module:factory` are taken as they are. With `pretrained`, only what has weights
    is matched; `tag_filter` then takes every weights of an architecture whose tag matches, instead of the default.

    Raises:
        ArgumentError: a pattern matches nothing, or everything is excluded.
    """
    lists = _Lists(pretrained, tag_filter)
    chosen = sorted({name for pattern in patterns for name in _matches(pattern, lists)})
    if not chosen:
        raise ArgumentError("No pattern was given; name at least one, such as 'resnet*'.")
    return _without(chosen, list(exclude))


def _without(chosen: list[str], exclude: list[str]) -> list[str]:
    for pattern in exclude:
        if not any(_is_like(name, pattern) for name in chosen):
            raise ArgumentError(
                f"The exclusion {pattern!r} matches none of the {len(chosen)} models that were chosen"
                f"{_nearest(pattern, chosen)}; correct it, or leave it out."
            )
    left = [name for name in chosen if not any(_is_like(name, pattern) for pattern in exclude)]
    if not left:
        raise ArgumentError(f"All {len(chosen)} models that were chosen are excluded; exclude less.")
    return left


def _is_like(name: str, pattern: str) -> bool:
    bare = name.partition(":")[2]
    return fnmatchcase(name, pattern) or fnmatchcase(bare, pattern) or fnmatchcase(bare.partition(".")[0], pattern)


def _matches(pattern: str, lists: _Lists) -> list[str]:
    library, colon, rest = pattern.rpartition(":") if "://" not in pattern else ("", "", pattern)
    if colon and (library.partition(":")[0] in SOURCES or not _could_be_library(library)):
        return [pattern]
    tagged = "." in rest
    names = [name for each in LIBRARIES if fnmatchcase(each, library or "timm") for name in lists.of(each, tagged)]
    found = [name for name in names if fnmatchcase(_bare(name, tagged), rest)]
    if not found:
        raise ArgumentError(_nothing(pattern, rest, names, lists.pretrained))
    return found


def _bare(name: str, tagged: bool) -> str:
    bare = name.partition(":")[2]
    return bare if tagged else bare.partition(".")[0]


def _could_be_library(text: str) -> bool:
    return text in LIBRARIES or any(mark in text for mark in _MAGIC)


def _nothing(pattern: str, rest: str, names: list[str], pretrained: bool) -> str:
    kind = "model with pretrained weights" if pretrained else "model"
    return f"no {kind} matches {pattern!r}{_nearest(rest, names) or '; try a wider pattern, such as resnet*'}."


def _nearest(pattern: str, names: list[str]) -> str:
    plain = "".join(character for character in pattern.partition(":")[2] or pattern if character not in _MAGIC + "]")
    bare = {name.partition(":")[2]: name for name in names}
    close = difflib.get_close_matches(plain, bare, 3, 0.5)
    return f"; the nearest names are {', '.join(bare[name] for name in close)}" if close else ""


class _Lists:
    """List the libraries' architectures, as `library:name`."""

    def __init__(self, pretrained: bool, tag_filter: str | None) -> None:
        self.pretrained = pretrained or tag_filter is not None
        self.tag_filter = tag_filter

    def of(self, library: str, tagged: bool) -> list[str]:
        """Return the names of one library, timm's perhaps with tags."""
        names: dict[str, Callable[[], list[str]]] = {"timm": lambda: self._timm(tagged), "torchvision": _torchvision}
        return [f"{library}:{name}" for name in names[library]()]

    def _timm(self, tagged: bool) -> list[str]:
        import timm

        if not tagged and not self.pretrained:
            return list(timm.list_models())
        names = [name for name in timm.list_pretrained() if fnmatchcase(name.partition(".")[2], self.tag_filter or "*")]
        if tagged or self.tag_filter is not None:
            return names
        return sorted({name.partition(".")[0] for name in names})


def _torchvision() -> list[str]:
    from torchvision import models

    return list(models.list_models())
