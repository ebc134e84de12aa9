"""`blurify measure MODEL [OTHER] --images DIR`: how often the answer changes when the picture shifts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blurify.cli.options import CONTEXT, let_user_modules_in, reading_options


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number for each channel, such as 0.5,0.5,0.5.") from None


@click.command(context_settings=CONTEXT)
@click.argument("model")
@click.argument("other", required=False)
@click.option("--images", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of pictures.")
@click.option("--labels", is_flag=True, help="The folder's subfolders, in alphabetical order, are the classes.")
@click.option("--mean", callback=_numbers, metavar="M,M,M", help="What is subtracted.  [default: the model's]")
@click.option("--std", callback=_numbers, metavar="S,S,S", help="What is divided by.  [default: the model's]")
@click.option("--shift", type=click.IntRange(min=1), default=32, show_default=True, help="Room for shifts, in pixels.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Pairs of shifts a picture.")
@click.option(
    "--protocol",
    type=click.Choice(["picture", "zhang-batch"]),
    default="picture",
    show_default=True,
    help="Draw shifts for every picture, or for every batch as published.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the shifts and intervals."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Pictures at a time.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read pictures."
)
@click.option("--device", default="cpu", show_default=True, help="Where the models run.")
@click.option("--strict", is_flag=True, help="Stop at a picture that cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@reading_options
def measure(model: str, other: str | None, as_json: bool, **options: Any) -> None:
    """Measure how consistently MODEL, and OTHER beside it, answer when pictures shift.

    Two windows of each picture are compared, at random shifts; a consistent network says the same of both.
    """
    let_user_modules_in(options["arch"], options["allow"])
    from blurify.cli.measuring import Settings, run

    result = run([name for name in (model, other) if name is not None], Settings(**options))
    click.echo(result.as_json() if as_json else str(result))
