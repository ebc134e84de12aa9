"""Settings of a bulk run as plain values: those that decide the outputs, and those that decide how they are made."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blurify.planning.spec import ARGUMENTS, DEFAULT_FILT_SIZE, DEFAULT_STRENGTH, Spec

# What a job says of its model: plain values that JSON holds.
Record = dict[str, Any]

CONVERTED, KEPT, FAILED = "converted", "kept", "failed"
# Not chosen, for its size.
LARGE = "large"
GIGABYTE = 10**9


@dataclass(frozen=True)
class Settings:
    """Hold the settings that decide the outputs; a folder holds those of one setting.

    >>> Settings(filt_size=3).as_json()["filt_size"]
    3

    The first eleven are arguments of `blurify.antialias`.

    Args:
        pretrained: with the weights that the library or the hub has.
        formats: of `blurify.files.FORMATS`, the native one among them.
        measure: a folder of images to measure every model on.
        recover: a folder of images to recover every model from.
        calib: how many of them, at most.
    """

    filt_size: int | Mapping[str, int] | None = DEFAULT_FILT_SIZE
    filter: str | Mapping[str, str] = "binomial"
    strength: float | Mapping[str, float] = DEFAULT_STRENGTH
    pad_type: str = "reflect"
    stem: bool = False
    patch_embed: bool = False
    upsample: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    grid: str = "published"
    antialias_resize: bool = True
    pretrained: bool = False
    formats: tuple[str, ...] = ("native",)
    measure: str | None = None
    recover: str | None = None
    calib: int = 256

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def spec(self) -> Spec:
        """Return what is asked of each conversion; a pattern need not match a site of each model."""
        return replace(Spec.of(**{name: getattr(self, name) for name in ARGUMENTS}), lenient=True)


def whole(written: Record) -> Record:
    """Settings as they were written, with what those of before a setting was known do not say.

    >>> whole({"filt_size": 3})["pretrained"]
    False
    """
    return Settings().as_json() | written


@dataclass(frozen=True)
class Limits:
    """How many jobs run at a time, the seconds each may take, and the bytes all of them together may use.

    >>> Limits(jobs=2, memory=8 * GIGABYTE).share
    4000000000
    """

    jobs: int = 1
    timeout: float = 600
    memory: int = 8 * GIGABYTE

    @property
    def share(self) -> int:
        """Return the memory that every job may use, however small its model is."""
        return self.memory // self.jobs

    @property
    def threads(self) -> int:
        """Return how many of the machine's cores a job may use."""
        return max(1, cores() // self.jobs)


def cores() -> int:
    """Return the cores that this process may use.

    >>> cores() > 0
    True
    """
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def most_memory() -> int:
    """Four fifths of the memory that the machine, or the container around this process, has.

    >>> most_memory() > 0
    True
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        total = 16 * GIGABYTE
    with suppress(OSError, ValueError):  # no container, or one without a limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total * 4 // 5


def versions() -> dict[str, str]:
    """Return the versions that an output depends on, besides the settings.

    >>> sorted(versions())
    ['blurify', 'python', 'timm', 'torch', 'torchvision']
    """
    from blurify._version import __version__

    packages = {name: version(name) for name in ("torch", "torchvision", "timm")}
    return {"blurify": __version__, "python": platform.python_version()} | packages
