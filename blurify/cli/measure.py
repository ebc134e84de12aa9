"""`blurify measure MODEL [OTHER] --images DIR`: how often the answer changes when the image shifts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from blurify.cli.options import CONTEXT, Command, channel_values, json_option, let_user_modules_in, reading_options

PATH = click.Path(path_type=Path)


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    return click.option(*names, show_default="default" in settings, **settings)


@click.command(context_settings=CONTEXT)
@click.argument("model")
@click.argument("other", required=False)
@_option("--images", type=PATH, required=True, metavar="DIR", help="Folder of images, or tar archives (webdataset).")
@_option("--labels", is_flag=True, help="Subfolders, in alphabetical order, are the classes; in archives, .cls files.")
@_option("--labels-from", type=PATH, metavar="CSV", help="Table with rows PATH,CLASS; paths are relative to DIR.")
@_option(
    "--task",
    type=click.Choice(["classify", "segment", "picture"]),
    default="classify",
    help="Output of the model: classes, a mask, or an image.",
)
@_option(
    "--data-range", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Range of an output image's values."
)
@_option("--mean", callback=channel_values, metavar="M,M,M", help="Channel means.  [default: the model's]")
@_option(
    "--std",
    callback=channel_values,
    metavar="S,S,S",
    help="Channel deviations.  [default: the model's]",
)
@_option("--shift", type=click.IntRange(min=1), default=32, help="Maximum shift, in pixels.")
@_option("--rounds", type=click.IntRange(min=1), default=5, help="Pairs of shifts per image.")
@_option(
    "--protocol",
    type=click.Choice(["picture", "zhang-batch"]),
    default="picture",
    help="Draw shifts for every image, or for every batch as published.",
)
@_option("--circular", is_flag=True, help="Also shift circularly: pixels that leave one side enter at the other.")
@_option("--diagonal", is_flag=True, help="Also record the probability of the true or first class along a diagonal.")
@_option("--per-layer", is_flag=True, help="Print how much of each site's energy is folded back, before and after.")
@_option("--report", type=PATH, metavar="FILE.html", help="Write a page with all tables and plots.")
@_option("--no-cost", is_flag=True, help="Do not measure the cost of the models.")
@_option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Random seed.")
@_option("--batch-size", type=click.IntRange(min=1), default=32, help="Batch size.")
@_option("--workers", type=click.IntRange(min=0), default=0, help="Number of processes that read images.")
@_option("--device", default="cpu", help="Device to run the models on.")
@_option("--amp", is_flag=True, help="Run in mixed precision.")
@_option("--channels-last", is_flag=True, help="Run in the channels-last memory layout.")
@_option("--strict", is_flag=True, help="Stop at an image that cannot be read.")
@json_option
@reading_options
def measure(model: str, other: str | None, as_json: bool, **options: Any) -> None:
    """Measure how stable the predictions of MODEL (and OTHER) are when images shift, and their cost.

    Two crops of each image are compared, at random shifts; a consistent network predicts the same for both.
    """
    let_user_modules_in(options["arch"], options["allow"])
    from blurify.cli.measure_run import run
    from blurify.cli.settings import MeasureSettings
    from blurify.measure import processes

    with processes.processes():
        result = run([name for name in (model, other) if name is not None], MeasureSettings(**options))
        if processes.rank() == 0:
            click.echo(result.as_json() if as_json else str(result))
