"""Where a measured network still aliases, for `blurify measure --per-layer` and `--report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blurify import api
from blurify.cli.measure_result import Measured, Sites
from blurify.cli.settings import MeasureSettings
from blurify.errors import ArgumentError, FileError
from blurify.files.atomic import check_output
from blurify.measure import processes
from blurify.measure.aliasing import folded_energy, not_run
from blurify.measure.estimate import estimate
from blurify.measure.folder import Folder, Pictures, Preprocessing
from blurify.measure.probes import middle
from blurify.planning.plan import plan_of
from blurify.verifying.twins import one_tap, with_plan

if TYPE_CHECKING:
    from blurify.report.page import Table

# So many images tell of a site's energy: their shares are alike.
LOOKED_AT = 32


def check_drawing(report: Path | None) -> None:
    """Refuse, before any slow work, a report that could not be written."""
    if report is None:
        return
    from blurify.drawing.canvas import require_matplotlib

    if report.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"--report writes a page, so {report} must end in .html.")
    require_matplotlib()
    check_output(report, force=True)


def converted_of(models: dict[str, nn.Module]) -> tuple[str, nn.Module]:
    """Return the last model that was converted; if none was, what converting the last one gives."""
    for name, model in reversed(models.items()):
        if plan_of(model) is not None:
            return name, model
    name, model = next(reversed(models.items()))
    return f"{name}, converted", api.antialias(model)


def of_sites(
    models: dict[str, nn.Module], folder: Folder, preprocessing: Preprocessing, size: int, settings: MeasureSettings
) -> Sites:
    """Measure the folded energy of every site, before and after."""
    name, converted = converted_of(models)
    pictures = first_pictures(folder, preprocessing, settings.device)
    found = folded_energy(converted, middle(pictures, size))
    shares = {}
    for site, values in found.items():
        before, after = values.unbind(1)
        shares[site] = tuple(estimate(part, seed=settings.seed) for part in (before, after, after - before))
    return Sites(name, shares, not_run(converted, found))  # type: ignore[arg-type]


def first_pictures(folder: Folder, preprocessing: Preprocessing, device: str) -> Tensor:
    """Some images, spread over all that there are."""
    step = max(1, len(folder.paths) // LOOKED_AT)
    shown = Pictures(folder.paths[::step][:LOOKED_AT], preprocessing)
    read = [picture for _, picture in (shown[i] for i in range(len(shown))) if isinstance(picture, Tensor)]
    if not read:
        raise FileError(f"None of the first {len(shown)} images can be read.")
    return torch.stack(read).to(processes.own_device(device))


def write_report(
    path: Path,
    result: Measured,
    models: dict[str, nn.Module],
    folder: Folder,
    preprocessing: Preprocessing,
    size: int,
    settings: MeasureSettings,
) -> None:
    """Return one page with what was measured, and images of where it aliases and how it answers."""
    from blurify.report import contents, page

    name, converted = converted_of(models)
    original = next(iter(models.values()))
    if original is converted:
        original = one_tap(*with_plan(converted))
    shown = contents.Shown(
        first_pictures(folder, preprocessing, settings.device),
        size,
        names=folder.classes,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    tables, pictures = contents.show(original, converted, shown)
    own = [table("What the models answer", result.figure_rows())]
    own += [table("What they cost", result.price_rows())] if result.prices else []
    notes = [*str(result.about).splitlines(), f"Sites and images are of {name}."]
    if "agreement" in result.both:
        notes.insert(0, f"Both predict the same for {result.both['agreement']}.")
    notes += [f"Skipped: {reason}" for reason in result.skipped]
    plan = str(plan_of(converted))
    command = shlex.join(["blurify", *sys.argv[1:]])
    title = "What antialiasing did to " + " and ".join(models)
    page.write_report(path, page.Content(title, command, tuple(notes), (*own, *tables), pictures, plan))


def table(title: str, rows: list[list[str]]) -> Table:
    """Rows, the first of which is the header."""
    from blurify.report import page

    return page.Table(title, tuple(rows[0]), tuple(map(tuple, rows[1:])))
