"""Classes of whole packages, which `--allow-package` lets a pickle restore, and the options that a refusal names.

A class may be restored if that takes no code but its own `__setstate__`: modules, dataclasses, enums and plain classes,
made without arguments. A function is never among them.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Collection, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

_RUNS_CODE = (fx.GraphModule, torch.jit.ScriptModule)
# Of so many names from one package, the package is named instead.
_MANY = 2
_MOST_SOURCE = 2**20
# Of the libraries that blurify stands on, what may be restored is known by name.
_NOT_PACKAGES = ("__main__", "builtins", "numpy", "torch", "torchvision", "timm", "blurify")


def class_of_package(name: str, packages: Collection[str]) -> type[Any] | None:
    """Return the class of that name if its package is allowed and restoring it calls nothing with arguments.

    >>> class_of_package("json.decoder.JSONDecoder", ["json"])
    <class 'json.decoder.JSONDecoder'>
    """
    module, _, last = name.rpartition(".")
    if not any(name.startswith(f"{package}.") for package in packages):
        return None
    try:
        value = getattr(importlib.import_module(module), last, None)
    except Exception:  # a package's own code may fail in any way at all
        return None
    if not isinstance(value, type) or issubclass(value, _RUNS_CODE):
        return None
    own = any(value.__module__.startswith(f"{package}.") or value.__module__ == package for package in packages)
    return value if own and (issubclass(value, nn.Module) or is_value(value) or _is_plain(value)) else None


def is_value(kind: type[Any]) -> bool:
    """Return whether objects of the class are made of plain values: of an enum, or a named tuple."""
    return issubclass(kind, Enum) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def _is_plain(kind: type[Any]) -> bool:
    """Return whether an object of the class is made by `object` or a plain container."""
    return kind.__new__ in (object.__new__, dict.__new__, list.__new__)


def advice(path: Path, refused: Collection[str]) -> str:
    """Return what to type so that all of the names are allowed."""
    scripts = [name for name in refused if name.startswith("__main__.")]
    counts = Counter(name.partition(".")[0] for name in refused if _may_be_class(name))
    packages = [package for package, count in counts.items() if count >= _MANY and _is_installed(package)]
    flags = [f"--allow-package {package}" for package in sorted(packages)]
    flags += [f"--allow {name}" for name in _singly(refused, packages)]
    flags += [f"--allow {name}" for name in _from_scripts(path, scripts)]
    missing = sorted({package for package in counts if not _is_installed(package)})
    install = f"install {' and '.join(missing)}, and " if missing else ""
    where = " (classes must be importable: name the module that defines them)" if scripts else ""
    return f"if you trust the file, {install}add {' '.join(flags)}{where}"


def advice_on_scripts(path: Path, name: str) -> str:
    """Return what to do about a class that cannot be imported by the name that the user allowed."""
    if not name.startswith("__main__."):
        return "run blurify where it can be."
    (own,) = _from_scripts(path, [name])
    return f"run blurify in the folder of the module that defines it, with --allow {own}."


def _singly(refused: Collection[str], packages: Collection[str]) -> Iterator[str]:
    for name in refused:
        covered = name.partition(".")[0] in packages and _may_be_class(name)
        if not covered and not name.startswith("__main__."):
            yield name


def _from_scripts(path: Path, names: Collection[str]) -> list[str]:
    """Return the names as a module has them that lies in the current folder or next to the file."""
    return [f"{_defining(path, name.partition('.')[2])}.{name.partition('.')[2]}" for name in names]


def _defining(path: Path, name: str) -> str:
    defines = re.compile(rf"^class {re.escape(name.partition('.')[0])}\b", re.MULTILINE)
    for script in sorted({*Path().glob("*.py"), *path.parent.glob("*.py")}):
        small = script.stem.isidentifier() and script.stat().st_size < _MOST_SOURCE
        if small and defines.search(script.read_text(errors="replace")):
            return script.stem
    return "MODULE"


def _may_be_class(name: str) -> bool:
    return name.rpartition(".")[2].lstrip("_")[:1].isupper() and name.partition(".")[0] not in _NOT_PACKAGES


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module of this process without a place, or no name of one
        return True
