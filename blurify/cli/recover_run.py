"""Run `blurify recover`: read and convert the model, split the images, recover, measure, write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blurify import files
from blurify.cli import report, session
from blurify.cli.devices import put
from blurify.cli.options import AUTO, Request
from blurify.cli.recover_result import Report
from blurify.errors import ArgumentError
from blurify.files.transforms import preprocessing_of
from blurify.measure import processes
from blurify.measure.folder import Folder, Preprocessing, find_pictures
from blurify.measure.networks import EvalConfig, Figures, readable, shares, side_by_side
from blurify.measure.preparing import PreprocessOverrides, prepared
from blurify.recovery.checking import TRAINED, OutOfMemoryError
from blurify.recovery.choosing import CANDIDATES, Choice, choose
from blurify.recovery.recover import Recovered, recover
from blurify.recovery.searching import strongest
from blurify.recovery.team import Team
from blurify.recovery.trials import Strongest


@dataclass(frozen=True)
class RecoverSettings:
    """The options of one command line."""

    images: Path
    method: str
    fine_tune: bool
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
    frozen_norms: bool
    epochs: int
    rate: float | None
    device: str

    @property
    def fit(self) -> dict[str, Any]:
        """Return the arguments that every way of recovering takes."""
        names = ("method", "memory", "batch_size", "seed", "frozen_norms")
        return {name: getattr(self, name) for name in names}

    @property
    def training(self) -> dict[str, Any]:
        """Return the arguments of a training."""
        return {"epochs": self.epochs, "rate": self.rate}


def run_together(
    request: Request, settings: RecoverSettings, target: Path, form: files.Format | None, *, force: bool, resume: bool
) -> Report | None:
    """Recover the model and write it; return what came out, or None if another process of several says it."""
    count = processes.started()
    if count > 1 and (settings.method not in TRAINED or settings.min_agreement is not None):
        raise ArgumentError(
            "Only --method distill and all, without --min-agreement, can run in several processes "
            f"(WORLD_SIZE is {count})."
        )
    with resumable(target), processes.processes():
        settings = replace(settings, device=processes.own_device(settings.device))
        return run(request, settings, target, form, count > 1, force=force, resume=resume)


def run(
    request: Request,
    settings: RecoverSettings,
    target: Path,
    form: files.Format | None,
    shared: bool = False,
    *,
    force: bool,
    resume: bool,
) -> Report | None:
    """Run the same in this process, which may be one of several."""
    if files.is_onnx(Path(request.model)):
        raise ArgumentError(
            f"{request.model} is an ONNX graph, which has no parameters to fit; recover the PyTorch model that it was "
            f"exported from, a .pt, .safetensors or .pt2 file, or convert the graph with: blurify {request.model}"
        )
    team, checkpoint = Team(shared), checkpoint_of(target)
    folder = find_pictures(settings.images, settings.labels)
    calibrating, testing = shares(range(len(folder.paths)), settings.calib, settings.seed, settings.images)
    opened = session.open_model(request)
    report.print_remarks(session.remarks(opened) if team.first else [])
    if not opened.plan.rewritten:
        raise ArgumentError(f"{session.nothing_to_do(opened)} So there is nothing to recover either.")
    form = files.fitting_format(form, opened.loaded.arch)
    size, preprocessing = prepared(
        preprocessing_of(opened.loaded.model, opened.loaded.arch),
        PreprocessOverrides(taken(opened), settings.mean, settings.std, settings.shift),
    )
    original = opened.loaded.model
    put(original, settings.device)
    with report.stage("reading images"):
        pictures, read, skipped = readable([folder.paths[number] for number in calibrating], preprocessing)
    pictures = pictures.to(settings.device)
    choice = _choose(opened, original, pictures, settings, size)
    converted = session.convert(opened, "graph").to(settings.device) if choice is None else choice.carried
    searched = None if choice else _search(original, converted, pictures, settings, size)
    if choice is not None:
        found = choice.recovered
    elif searched is None:
        # What lies around the middle is for shifts.
        low = settings.shift // 2
        middle = pictures[..., low : low + size, low : low + size].contiguous()
        labels = labels_of(folder, [calibrating[number] for number in read]) if settings.fine_tune else None
        prepare(checkpoint, resume, team)
        found = _recover(original, converted, middle, settings, checkpoint, labels, shared)
    else:
        converted, found = searched.carried, searched.recovered
    if not team.first:
        return None
    networks: dict[str, nn.Module] = {"original": original, "carried": converted, "recovered": found.model}
    with report.stage("measuring"):
        figures = _measured(networks, folder, testing, preprocessing, settings, size)
    remark, _ = form.write_proved(
        found.model.cpu(),
        target,
        files.SaveOptions(opened.loaded.arch, opened.loaded.signature or opened.examples[0], force=force),
    )
    checkpoint.unlink(missing_ok=True)
    report.print_remarks([remark] if remark else [])
    written = report.written(target, form)
    return Report(figures.networks, found, written, figures.pictures, skipped + figures.skipped, searched, choice)


def taken(opened: session.Session) -> tuple[int, ...] | None:
    """Return the size of an input: as a program says itself, or as the user says."""
    return tuple(opened.examples[0].shape[1:]) if opened.loaded.signature else opened.request.input_size


def labels_of(folder: Folder, numbers: list[int]) -> Tensor:
    """Return the classes of those images."""
    return torch.tensor([(folder.labels or ())[number] for number in numbers])


def check_picture(path: Path | None) -> None:
    """Refuse, before any slow work, a plot that could not be drawn."""
    if path is not None:
        from blurify.drawing.canvas import STILL, check_suffix, require_matplotlib
        from blurify.files.atomic import check_output

        check_suffix(path, STILL)
        require_matplotlib()
        check_output(path, force=True)


def draw(found: Strongest, path: Path) -> None:
    """Draw the trade-off that a search found, of the way that was chosen."""
    from blurify.drawing.canvas import save
    from blurify.drawing.trade_off import trade_off

    trials = [trial for trial in found.trials if trial.recovered is found.chosen.recovered]
    shown = {
        f"{name}, {found.chosen.weights} weights": [getattr(trial, name) for trial in trials]
        for name in ("agreement", "consistency")
    }
    strengths = [trial.strength for trial in trials]
    save(trade_off(strengths, shown, found.chosen.strength, found.min_agreement), path)


def checkpoint_of(target: Path) -> Path:
    """Return the file next to the output that an interrupted training leaves."""
    return target.with_name(f"{target.name}.training")


@contextmanager
def resumable(target: Path) -> Iterator[None]:
    """Say how a training that was interrupted, or that ran out of memory, is resumed."""
    begin = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, OutOfMemoryError) as error:
        if not checkpoint_of(target).exists():
            raise
        stopped = "Interrupted" if isinstance(error, KeyboardInterrupt) else str(error).rstrip(".")
        text = f"{stopped} after {time.monotonic() - begin:.0f} s; run the same command with --resume to continue."
        raise type(error)(text) from error


def prepare(checkpoint: Path, resume: bool, team: Team) -> None:
    """Remove the checkpoint of an earlier run, unless that is to be resumed."""
    if team.first and not resume:
        checkpoint.unlink(missing_ok=True)
    elif team.first and not checkpoint.exists():
        report.print_remarks([f"There is no {checkpoint} to resume from, so the training starts again."])
    team.wait()


def _recover(
    original: nn.Module,
    converted: nn.Module,
    pictures: Tensor,
    settings: RecoverSettings,
    checkpoint: Path,
    labels: Tensor | None,
    shared: bool,
) -> Recovered:
    try:
        with report.stage(f"recovering from {len(pictures)} images"):
            return recover(
                original,
                converted,
                pictures,
                labels=labels,
                **settings.fit,
                **settings.training,
                checkpoint=checkpoint,
                shared=shared,
            )
    except OutOfMemoryError:
        raise
    except ArgumentError:
        # What is wrong would be so again.
        checkpoint.unlink(missing_ok=True)
        raise


def _choose(
    opened: session.Session, original: nn.Module, pictures: Tensor, settings: RecoverSettings, size: int
) -> Choice | None:
    """Return the filter that suits best, and what recovering with it gives; None where the user chose one."""
    if opened.request.filter != AUTO or settings.method in TRAINED or settings.min_agreement is not None:
        return None
    plans = {each: session.replanned(opened, each) for each in CANDIDATES}
    low = settings.shift // 2
    shown = pictures[:1, ..., low : low + size, low : low + size]
    # A plan is carried out on a graph of its own.
    candidates = {
        each: plan.apply(original, inplace=True, form="graph", example_inputs=shown)
        for each, plan in plans.items()
        if plan is not None
    }
    if not candidates:
        return None
    with report.stage(f"choosing a filter with {len(pictures)} images"):
        return choose(
            original,
            candidates,
            pictures,
            size=size,
            **settings.fit,
        )


def _search(
    original: nn.Module, converted: nn.Module, pictures: Tensor, settings: RecoverSettings, size: int
) -> Strongest | None:
    """Return the strongest blurs that agree as often as is asked; None where nothing is asked."""
    if settings.min_agreement is None:
        return None
    with report.stage(f"searching with {len(pictures)} images"):
        return strongest(
            original,
            converted,
            pictures,
            size=size,
            min_agreement=settings.min_agreement,
            **settings.fit,
            **settings.training,
        )


def _measured(
    networks: dict[str, nn.Module],
    folder: Folder,
    numbers: list[int],
    preprocessing: Preprocessing,
    settings: RecoverSettings,
    size: int,
) -> Figures:
    """Return the figures of every network on the images that none was recovered from."""
    manner = EvalConfig(size, settings.shift, settings.rounds, settings.batch_size, settings.seed, settings.device)
    labels = None if folder.labels is None else [folder.labels[number] for number in numbers]
    return side_by_side(networks, [folder.paths[number] for number in numbers], preprocessing, manner, labels)
