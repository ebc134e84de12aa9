"""Use images in a job: recover the model from some of them, and measure it on others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import nn

from blurify import files
from blurify.errors import ArgumentError
from blurify.files.transforms import preprocessing_of
from blurify.measure.folder import Source, find_pictures
from blurify.measure.networks import EvalConfig, shares, side_by_side, stacked
from blurify.measure.preparing import PreprocessOverrides, prepared
from blurify.recovery.recover import recover
from blurify.zoo.settings import Record, Settings

SHIFT, SEED = 32, 0
# For what lies between two layers while they are refitted; what is beyond goes to temporary files.
MEMORY = 10**9


def shared_out(settings: Settings) -> tuple[list[Source], list[Source]]:
    """Return the images to recover from, and those to measure on, which are others.

    >>> [len(share) for share in shared_out(Settings(recover="pictures", calib=64))]
    [64, 36]

    Raises:
        FileError: a folder holds none.
        ArgumentError: there are too few.
    """
    if settings.recover is None:
        return [], [] if settings.measure is None else list(find_pictures(Path(settings.measure), False).paths)
    source = Path(settings.recover)
    used, rest = shares(find_pictures(source, False).paths, settings.calib, SEED, source)
    if settings.measure is None:
        return used, rest
    others = [path for path in find_pictures(Path(settings.measure), False).paths if path not in set(used)]
    if not others:
        raise ArgumentError(
            f"Every image of {settings.measure} is one that models are recovered from; measure on others."
        )
    return used, others


def recovered(settings: Settings, loaded: files.LoadedModel, converted: nn.Module) -> tuple[nn.Module, Record]:
    """Return the converted model with weights that work with the blurs, and what became of its layers.

    >>> recovered(Settings(recover="pictures"), loaded, converted)[1]["errors"]
    {'carried': 0.31, 'lstsq': 0.04}
    """
    size, preprocessing = prepared(preprocessing_of(loaded.model, loaded.arch), PreprocessOverrides(shift=SHIFT))
    pictures, skipped = stacked(shared_out(settings)[0], preprocessing)
    low = SHIFT // 2
    middle = pictures[..., low : low + size, low : low + size].contiguous()
    found = recover(loaded.model, converted, middle, memory=MEMORY, seed=SEED)
    return found.model, {
        "images": settings.recover,
        "pictures": found.pictures,
        "skipped": len(skipped),
        "layers": len(found.fitted),
        "layers_kept": len(found.layers) - len(found.fitted) + len(found.skipped),
        "errors": {step: float(f"{error:.4g}") for step, error in found.errors.items()},
        "seconds": round(sum(found.seconds.values()), 2),
    }


def measured(settings: Settings, loaded: files.LoadedModel, networks: Mapping[str, nn.Module]) -> Record:
    """Shift consistency of every network, and its agreement with the first, each with its interval.

    >>> networks = {"original": model, "converted": smooth}
    >>> measured(Settings(measure="pictures"), loaded, networks)["networks"]["converted"]["agreement"]["percent"]
    91.5
    """
    size, preprocessing = prepared(preprocessing_of(loaded.model, loaded.arch), PreprocessOverrides(shift=SHIFT))
    figures = side_by_side(networks, shared_out(settings)[1], preprocessing, EvalConfig(size, SHIFT, seed=SEED))
    of_each = {name: {key: asdict(value) for key, value in found.items()} for name, found in figures.networks.items()}
    return {
        "images": settings.measure or settings.recover,
        "pictures": figures.pictures,
        "skipped": len(figures.skipped),
        "networks": of_each,
        "difference": {key: asdict(value) for key, value in figures.difference.items()},
    }
