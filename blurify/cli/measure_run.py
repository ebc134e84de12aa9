"""Run `blurify measure`: read models and images, compare, and report."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from blurify import files
from blurify.cli.devices import put
from blurify.cli.feeding import batches
from blurify.cli.figures import differences, estimated, labels_of, scores_of
from blurify.cli.measure_result import About, Measured
from blurify.cli.options import READING
from blurify.cli.pricing import prices_of
from blurify.cli.settings import MeasureSettings
from blurify.cli.sites import check_drawing, of_sites, write_report
from blurify.errors import ArgumentError, BlurifyError, FileError
from blurify.files.transforms import preprocessing_of
from blurify.measure import processes
from blurify.measure.compare import (
    Classes,
    Comparison,
    EvaluatedModel,
    NoPicturesError,
    NotFiniteError,
    compare,
    joined,
)
from blurify.measure.consistency import window_offsets
from blurify.measure.folder import Folder, Preprocessing, find_pictures
from blurify.measure.preparing import PreprocessOverrides, prepared
from blurify.measure.probes import Diagonal, Maps, Probe, Rolled, Windows
from blurify.measure.shifts import draw_offsets


def run(names: list[str], settings: MeasureSettings) -> Measured:
    """Measure the named models on the images that the settings name."""
    check_settings(settings)
    folder = find_pictures(settings.images, settings.labels, settings.labels_from)
    loaded = {name: read(name, settings) for name in names}
    models = {name: one.model for name, one in loaded.items()}
    first_one = next(iter(loaded.values()))
    size, preprocessing = prepared(
        preprocessing_of(first_one.model, first_one.arch),
        PreprocessOverrides(settings.input_size, settings.mean, settings.std, settings.shift),
    )
    compared, skipped = everybodys_answers(models, folder, size, preprocessing, settings)
    labels = labels_of(folder.labels, compared.pictures)
    scores = [scores_of(rows, labels) for rows in compared.answers]
    both = differences(scores, compared.answers) if len(scores) == 2 else {}
    first = processes.rank() == 0
    result = Measured(
        {name: estimated(of_one, settings.seed) for name, of_one in zip(models, scores, strict=True)},
        estimated(both, settings.seed),
        {} if settings.no_cost or not first else prices_of(models, preprocessing, size, settings.device),
        of_sites(models, folder, preprocessing, size, settings) if settings.per_layer and first else None,
        about(compared, size, preprocessing, settings),
        skipped,
    )
    if settings.report is not None and first:
        write_report(settings.report, result, models, folder, preprocessing, size, settings)
    return result


def check_settings(settings: MeasureSettings) -> None:
    """Refuse, before any slow work, what would fail after it."""
    if settings.labels and settings.labels_from:
        raise ArgumentError("--labels and --labels-from both say what the classes are; give one of them.")
    dense = settings.task != "classify"
    asked = [name for name in ("labels", "labels_from", "circular", "diagonal") if getattr(settings, name)]
    if dense and asked:
        raise ArgumentError(
            f"--{asked[0].replace('_', '-')} is for models that give classes, not for --task {settings.task}."
        )
    check_drawing(settings.report)


def read(name: str, settings: MeasureSettings) -> files.LoadedModel:
    """Return the named model, on the device and in the layout that it is to run in."""
    # What is known of a state_dict's architecture is not asked of a name or of our own files.
    named = files.looks_like_architecture(name) and not Path(name).exists()
    of_files = {"arch": None, "ema": False, "key": None, "backbone": False} if named else {"pretrained": False}
    loaded = files.read_model(name, **{each: getattr(settings, each) for each in READING} | of_files)
    device = processes.own_device(settings.device)
    put(loaded.model, device)
    if settings.channels_last:
        loaded.model.to(memory_format=torch.channels_last)
    return loaded


def everybodys_answers(
    models: dict[str, nn.Module], folder: Folder, size: int, preprocessing: Preprocessing, settings: MeasureSettings
) -> tuple[Comparison, list[str]]:
    """Collect the models' predictions from all processes, and the unreadable images."""
    skipped: list[str] = []
    dense = settings.task != "classify"
    asked = [EvaluatedModel(name, model, dense, settings.amp, settings.channels_last) for name, model in models.items()]
    shown = batches(folder, preprocessing, settings, skipped)
    try:
        found: Comparison | BlurifyError | None = compare(asked, probes(folder, size, settings), shown, classes(folder))
    except NotFiniteError as error:
        found = ArgumentError(f"{error.name} gives values that are not finite for {folder.paths[error.picture]}.")
    except NoPicturesError:
        # Others may have some.
        found = None
    except BlurifyError as error:
        found = error
    parts = [part for part in processes.everybodys(found) if part is not None]
    reasons = [reason for own in processes.everybodys(skipped) for reason in own]
    if not parts and len(reasons) == len(folder.paths):
        raise FileError(f"None of the {len(reasons)} images can be read; the first: {reasons[0]}")
    if not parts:
        raise ArgumentError("Interrupted before the first images were through; nothing was measured.")
    return joined(parts), sorted(reasons)


def probes(folder: Folder, size: int, settings: MeasureSettings) -> list[Probe]:
    """Return the probes for the models."""
    count = len(folder.paths)
    offsets = window_offsets(
        count,
        settings.shift,
        settings.rounds,
        seed=settings.seed,
        protocol=settings.protocol,
        batch_size=settings.batch_size,
    )
    if settings.task != "classify":
        return [Maps(offsets, size, settings.data_range if settings.task == "picture" else None)]
    asked: list[Probe] = [Windows(offsets, size)]
    if settings.circular:
        generator = torch.Generator().manual_seed(settings.seed)
        shifts = [draw_offsets(count, settings.shift, generator) for _ in range(2 * settings.rounds)]
        asked.append(Rolled(shifts, size))
    if settings.diagonal:
        asked.append(Diagonal(size, None if folder.labels is None else torch.tensor(folder.labels)))
    return asked


def classes(folder: Folder) -> Classes | None:
    """Match the labels' classes with the model's."""
    if folder.labels is None:
        return None
    named = bool(folder.classes)
    return Classes(len(folder.classes) if named else max(folder.labels) + 1, named)


def about(compared: Comparison, size: int, preprocessing: Preprocessing, settings: MeasureSettings) -> About:
    """Name the data that the figures are about."""
    return About(
        str(settings.images),
        len(compared.pictures),
        compared.complete,
        settings.task,
        settings.rounds,
        size,
        settings.shift,
        settings.protocol,
        settings.seed,
        preprocessing.mean,
        preprocessing.std,
        preprocessing.interpolation,
    )
