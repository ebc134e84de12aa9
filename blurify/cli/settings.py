"""The options of one `blurify measure`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MeasureSettings:
    """The options of one command line."""

    images: Path
    labels: bool
    labels_from: Path | None
    task: str
    data_range: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    shift: int
    rounds: int
    protocol: str
    circular: bool
    diagonal: bool
    per_layer: bool
    report: Path | None
    no_cost: bool
    seed: int
    batch_size: int
    workers: int
    device: str
    amp: bool
    channels_last: bool
    strict: bool
    arch: str | None
    allow: tuple[str, ...]
    input_size: tuple[int, ...] | None
    pretrained: bool
    ema: bool
    max_size: int | None
    allow_package: tuple[str, ...] = ()
    key: str | None = None
    backbone: bool = False
