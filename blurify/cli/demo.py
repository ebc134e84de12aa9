"""`blurify demo`: convert and measure the classifier that ships with the package."""

from __future__ import annotations

from pathlib import Path

import click

from blurify.cli.options import CONTEXT, debug_option, json_option


@click.command(context_settings=CONTEXT)
@click.option("--filt-size", type=click.IntRange(min=1), default=4, show_default=True, help="Taps of the blur.")
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw before and after into a PNG or SVG."
)
@json_option
@debug_option
def demo(filt_size: int, picture: Path | None, as_json: bool) -> None:
    """Convert a small trained classifier, prove it, and measure it before and after. Needs no file."""
    from blurify.cli import report
    from blurify.demo import run_demo

    with report.stage("measuring"):
        result = run_demo(filt_size=filt_size, picture=picture)
    click.echo(result.as_json() if as_json else str(result))
    if not as_json and picture is not None:
        click.echo(f"drew {picture}")
