"""What a bulk run is told, as plain values: what decides the outputs, and what decides only how they are come by."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What a job says of its model: plain values that JSON holds.
Record = dict[str, Any]

CONVERTED, KEPT, FAILED = "converted", "kept", "failed"
# Not chosen, for its size.
LARGE = "large"
GIGABYTE = 10**9


@dataclass(frozen=True)
class Settings:
    """What decides the outputs; a folder holds those of one setting.

    >>> Settings(filt_size=3).as_json()
    {'filt_size': 3, 'strength': 1.0, 'pretrained': False, 'formats': ['native'], 'measure': None, 'recover': None,
     'calib': 256}

    Args:
        filt_size: taps of the blur.
        strength: how much of it.
        pretrained: with the weights that the library or the hub has.
        formats: of `blurify.files.FORMATS`, the native one among them.
        measure: a folder of pictures to measure every model on.
        recover: a folder of pictures to recover every model from.
        calib: how many of them, at most.
    """

    filt_size: int = 4
    strength: float = 1.0
    pretrained: bool = False
    formats: tuple[str, ...] = ("native",)
    measure: str | None = None
    recover: str | None = None
    calib: int = 256

    def as_json(self) -> dict[str, Any]:
        """The same as JSON gives it back."""
        return asdict(self) | {"formats": list(self.formats)}


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
        """What every job may use, however small its model is."""
        return self.memory // self.jobs

    @property
    def threads(self) -> int:
        """What a job may keep busy of the machine's cores."""
        return max(1, cores() // self.jobs)


def cores() -> int:
    """The cores that this process may use.

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
    """What an output depends on beside the settings.

    >>> sorted(versions())
    ['blurify', 'python', 'timm', 'torch', 'torchvision']
    """
    from blurify._version import __version__

    packages = {name: version(name) for name in ("torch", "torchvision", "timm")}
    return {"blurify": __version__, "python": platform.python_version()} | packages
