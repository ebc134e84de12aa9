"""What `blurify recover` does: read and convert the model, share out the pictures, recover, measure, write."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from blurify import files
from blurify.cli import report, session
from blurify.cli.feeding import Wishes, prepared
from blurify.cli.options import Request
from blurify.cli.recovered import Report
from blurify.errors import ArgumentError, FileError
from blurify.measure.compare import Asked, compare
from blurify.measure.consistency import agreement, window_offsets
from blurify.measure.estimate import Estimate, estimate
from blurify.measure.folder import Folder, Pictures, Preprocessing, find_pictures
from blurify.measure.probes import Rows, Windows
from blurify.recovery.distilling import checkpoint_of
from blurify.recovery.recovering import Recovered, recover
from blurify.recovery.searching import strongest
from blurify.recovery.trials import Strongest

# Of a folder that has no more than the pictures that are asked for, what is held back to measure on.
TEST_SHARE = 1 / 3


@dataclass(frozen=True)
class Settings:
    """The options of one command line."""

    images: Path
    method: str
    min_agreement: float | None
    calib: int
    memory: int
    labels: bool
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    shift: int
    rounds: int
    batch_size: int
    seed: int
    device: str


def run(
    request: Request, settings: Settings, target: Path, form: files.Format | None, *, force: bool, resume: bool
) -> Report:
    """Recover the model and write it; return what came out."""
    folder = find_pictures(settings.images, settings.labels)
    calibrating, testing = shares(len(folder.paths), settings)
    opened = session.open_model(request)
    report.print_remarks(session.remarks(opened))
    if not opened.plan.rewritten:
        raise ArgumentError(f"{session.nothing_to_do(opened)} So there is nothing to recover either.")
    form = files.fitting_format(form, opened.loaded.arch)
    size, preprocessing = prepared(
        opened.loaded, Wishes(request.input_size, settings.mean, settings.std, settings.shift)
    )
    pictures, skipped = read(folder, calibrating, preprocessing)
    pictures = pictures.to(settings.device)
    original = opened.loaded.model.to(settings.device).eval()
    converted = session.convert(opened).to(settings.device)
    searched = _search(original, converted, pictures, settings, size)
    if searched is None:
        # What lies around the middle is for shifts.
        low = settings.shift // 2
        middle = pictures[..., low : low + size, low : low + size].contiguous()
        found = _recover(original, converted, middle, settings, journal_of(target, resume))
    else:
        converted, found = searched.carried, searched.recovered
    networks: dict[str, nn.Module] = {"original": original, "carried": converted, "recovered": found.model}
    with report.stage("measuring"):
        figures, missing = measured(networks, folder, testing, preprocessing, settings, size)
    remark = form.write(
        found.model.cpu(),
        target,
        files.Wanted(opened.loaded.arch, opened.loaded.signature or opened.examples[0], force=force),
    )
    remove(journal_of(target, resume=True))
    report.print_remarks([remark] if remark else [])
    written = report.written(target, form)
    return Report(figures, found, written, len(testing) - len(missing), skipped + missing, searched)


def check_picture(path: Path | None) -> None:
    """Refuse, before any slow work, a picture that could not be drawn."""
    if path is not None:
        from blurify.drawing.canvas import STILL, check_suffix, require_matplotlib
        from blurify.files.atomic import check_output

        check_suffix(path, STILL)
        require_matplotlib()
        check_output(path, force=True)


def draw(found: Strongest, path: Path) -> None:
    """Draw the trade-off that a search found."""
    from blurify.drawing.canvas import save
    from blurify.drawing.trade_off import trade_off

    shown = {name: [getattr(trial, name) for trial in found.trials] for name in ("agreement", "consistency")}
    strengths = [trial.strength for trial in found.trials]
    save(trade_off(strengths, shown, found.chosen.strength, found.min_agreement), path)


def shares(count: int, settings: Settings) -> tuple[list[int], list[int]]:
    """The numbers of the pictures to recover from, and of those to measure on."""
    if count < 4:
        raise ArgumentError(f"{settings.images} holds {count} pictures, too few to recover from; give 64 or more.")
    numbers = list(range(count))
    random.Random(settings.seed).shuffle(numbers)
    used = min(settings.calib, count - max(1, round(count * TEST_SHARE)))
    return numbers[:used], numbers[used:]


def read(folder: Folder, numbers: list[int], preprocessing: Preprocessing) -> tuple[Tensor, list[str]]:
    """The pictures that can be read, and why others cannot."""
    dataset = Pictures([folder.paths[number] for number in numbers], preprocessing)
    with report.stage("reading pictures"):
        items = [dataset[number][1] for number in range(len(numbers))]
    pictures = [item for item in items if isinstance(item, Tensor)]
    reasons = [item for item in items if isinstance(item, str)]
    if not pictures:
        raise FileError(f"none of {len(numbers)} pictures can be read; the first: {reasons[0]}")
    return torch.stack(pictures), reasons


def journal_of(target: Path, resume: bool) -> Path:
    """The file beside the output that an interrupted run leaves; a stale one is removed unless it is gone on from."""
    path = target.with_name(f"{target.name}.journal")
    if not resume:
        remove(path)
    return path


def remove(journal: Path) -> None:
    """Remove what an interrupted run goes on from."""
    for path in (journal, checkpoint_of(journal)):
        path.unlink(missing_ok=True)


def _recover(
    original: nn.Module, converted: nn.Module, pictures: Tensor, settings: Settings, journal: Path
) -> Recovered:
    begin = time.monotonic()
    try:
        with report.stage(f"recovering from {len(pictures)} pictures"):
            return recover(
                original,
                converted,
                pictures,
                method=settings.method,
                memory=settings.memory,
                batch_size=settings.batch_size,
                seed=settings.seed,
                journal=journal,
            )
    except KeyboardInterrupt:
        if journal.exists() or checkpoint_of(journal).exists():
            click.echo(f"after {time.monotonic() - begin:.0f} s; go on with --resume from {journal}", err=True)
        raise


def _search(
    original: nn.Module, converted: nn.Module, pictures: Tensor, settings: Settings, size: int
) -> Strongest | None:
    """The strongest blurs that agree as often as is asked; None where nothing is asked."""
    if settings.min_agreement is None:
        return None
    with report.stage(f"searching with {len(pictures)} pictures"):
        return strongest(
            original,
            converted,
            pictures,
            size=size,
            min_agreement=settings.min_agreement,
            method=settings.method,
            memory=settings.memory,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )


def measured(
    networks: dict[str, nn.Module],
    folder: Folder,
    numbers: list[int],
    preprocessing: Preprocessing,
    settings: Settings,
    size: int,
) -> tuple[dict[str, dict[str, Estimate]], list[str]]:
    """The figures of every network on the pictures that none was recovered from, and why some cannot be read."""
    offsets = window_offsets(len(numbers), settings.shift, settings.rounds, seed=settings.seed)
    missing: list[str] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for begin in range(0, len(numbers), settings.batch_size):
            part = numbers[begin : begin + settings.batch_size]
            items = [Pictures([folder.paths[n]], preprocessing)[0][1] for n in part]
            missing.extend(item for item in items if isinstance(item, str))
            kept = [(begin + i, item) for i, item in enumerate(items) if isinstance(item, Tensor)]
            if kept:
                yield torch.tensor([n for n, _ in kept]), torch.stack([p for _, p in kept]).to(settings.device)

    asked = [Asked(name, network) for name, network in networks.items()]
    compared = compare(asked, [Windows(offsets, size)], batches())
    labels = None if folder.labels is None else torch.tensor([folder.labels[numbers[n]] for n in compared.pictures])
    first = compared.answers[0]
    figures = {}
    for name, answers in zip(networks, compared.answers, strict=True):
        scores = {"consistency": agreement(answers["answers"]), "agreement": _same(answers, first["middle"][:, 0])}
        if labels is not None:
            scores["accuracy"] = _same(answers, labels)
        figures[name] = {figure: estimate(score, seed=settings.seed) for figure, score in scores.items()}
    return figures, missing


def _same(answers: Rows, wanted: Tensor) -> Tensor:
    return (answers["middle"][:, 0] == wanted).double()
