"""How much memory an action takes at its peak, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(prepare: Callable[..., Callable[[], object]], *args: Any) -> float:
    """MiB that the action `prepare(*args)` returns takes beyond what is there before it runs; Linux only.

    `prepare` must be importable, since a fresh process runs it.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (prepare, args))


def _peak(prepare: Callable[..., Callable[[], object]], args: tuple[Any, ...]) -> float:
    action = prepare(*args)
    before = _kib("VmRSS")
    RESET.write_text("5")
    action()
    return (_kib("VmHWM") - before) / 1024


def _kib(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
