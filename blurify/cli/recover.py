"""`blurify recover MODEL --images DIR`: convert, then find weights that work with the blurs, without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from blurify.cli.options import (
    AUTO,
    CONTEXT,
    Request,
    byte_size,
    channel_values,
    choosing_options,
    format_option,
    json_option,
    let_user_modules_in,
    output_next_to,
)

EPOCHS = 4


@click.command(context_settings=CONTEXT)
@choosing_options
@click.option("--images", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of images.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Output file.  [default: MODEL.recovered.pt next to MODEL]",
)
@format_option
@click.option(
    "--method",
    type=click.Choice(["lstsq", "bn", "distill", "all"]),
    default="lstsq",
    show_default=True,
    help="Refit layers by least squares, re-estimate batch-norms, train on the original's predictions, or all in turn.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    metavar="PERCENT",
    help="Weaken the blurs, site by site, until this share of predictions is the original's.",
)
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw the trade-off (.png or .svg).")
@click.option(
    "--calib",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Maximum images to recover from.",
)
@click.option(
    "--memory",
    default="4GB",
    show_default=True,
    callback=byte_size(),
    metavar="SIZE",
    help="Memory for cached activations.",
)
@click.option("--labels", is_flag=True, help="Subfolders are the classes; also report the accuracy.")
@click.option("--fine-tune", is_flag=True, help="Also train --method distill on the classes of --labels.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum epochs of distill and all.  [default: 4]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="RATE",
    help="Learning rate of --method distill and all.  [default: by the number of steps]",
)
@click.option("--frozen-norms", is_flag=True, help="Also re-estimate batch-norms that the model freezes.")
@click.option("--mean", callback=channel_values, metavar="M,M,M", help="Channel means.  [default: the model's]")
@click.option(
    "--std",
    callback=channel_values,
    metavar="S,S,S",
    help="Channel deviations.  [default: the model's]",
)
@click.option("--shift", type=click.IntRange(min=1), default=32, show_default=True, help="Maximum shift, in pixels.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Pairs of shifts per image.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Batch size.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Random seed.")
@click.option("--device", default="cpu", show_default=True, help="Device to run the networks on.")
@click.option("--resume", is_flag=True, help="Resume the training from the checkpoint next to the output.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@json_option
def recover(
    images: Path,
    output: Path | None,
    format_name: str | None,
    method: str,
    calib: int,
    memory: int,
    as_json: bool,
    force: bool,
    resume: bool,
    fine_tune: bool,
    picture: Path | None,
    **options: Any,
) -> None:
    """Convert MODEL and find weights that work with the blurs, from images without labels.

    The images are shuffled; some are recovered from, and the networks are measured on the others. With
    --min-agreement the strongest blurs are searched for that leave so many answers as they were.
    """
    if picture is not None and options["min_agreement"] is None:
        raise click.UsageError("--picture draws the trade-off that --min-agreement finds; give that too.")
    if resume and options["min_agreement"] is not None:
        raise click.UsageError("--resume cannot be combined with --min-agreement; remove one of them.")
    if resume:
        check_trained("--resume", method)
    if options["frozen_norms"] and method not in ("bn", "all"):
        raise click.UsageError("--frozen-norms is for --method bn or all; give one of these too.")
    for name in ("epochs", "rate"):
        if options[name] is not None:
            check_trained(f"--{name}", method)
    options["epochs"] = options["epochs"] or EPOCHS
    if fine_tune:
        check_fine_tuning(method, options["labels"], options["min_agreement"])
    names = [name for name in Request.__dataclass_fields__ if name in options]
    request = Request(**{name: options.pop(name) for name in names})
    if request.filter == AUTO and request.filt_size is not None:
        request = replace(request, filter="binomial")
    let_user_modules_in(request.arch, request.allow)
    from blurify import files
    from blurify.cli import recover_run

    form = files.choose_format(output, format_name) or (None if output else files.own_format(Path(request.model)))
    target = output or output_next_to(request.model, f".recovered{form.suffix if form else '.pt'}")
    if form is not None:
        form.check()
    source = Path(request.model)
    if source.exists() or files.looks_like_architecture(request.model):
        files.check_output(target, source=source, force=force)
    settings = recover_run.RecoverSettings(images, method, fine_tune=fine_tune, calib=calib, memory=memory, **options)
    recover_run.check_picture(picture)
    report = recover_run.run_together(request, settings, target, form, force=force, resume=resume)
    if report is None:
        return
    if picture is not None and report.searched is not None:
        recover_run.draw(report.searched, picture)
    click.echo(report.as_json() if as_json else str(report))


def check_fine_tuning(method: str, labels: bool, min_agreement: float | None) -> None:
    """Refuse a fine-tuning that nothing would be done for."""
    if not labels:
        raise click.UsageError("--fine-tune trains on the classes that --labels finds; give that too.")
    check_trained("--fine-tune", method)
    if min_agreement is not None:
        raise click.UsageError("--fine-tune changes answers and --min-agreement keeps them; remove one of them.")


def check_trained(option: str, method: str) -> None:
    """Refuse an option of a training that is not made."""
    if method not in ("distill", "all"):
        raise click.UsageError(f"{option} is for --method distill or all, which train, and not for {method}.")
