"""`blurify zoo PATTERN... -o DIR`: convert every matching model; `blurify zoo status DIR`: what a folder holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, cast

import click
from click_default_group import DefaultGroup

from blurify.cli.options import CONTEXT, byte_size, conversion_options, debug_option, json_option, let_user_modules_in

INTERRUPTED = 130
FOLDER = click.Path(path_type=Path)


@click.group("zoo", cls=DefaultGroup, default="convert", context_settings=CONTEXT)
def _zoo() -> None:
    """Convert many models at once, prove each, and leave a folder that can be picked up again.

    \b
    blurify zoo 'resnet*' 'torchvision:vgg*' -o DIR   (the same as: blurify zoo convert ...)
    blurify zoo status DIR
    """


# DefaultGroup has no types.
zoo = cast("click.Group", _zoo)


def _count(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", value, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f"{value!r} is not a number of parameters, such as 30M.")
    return int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}[found[2].upper()])


@zoo.command(context_settings=CONTEXT)
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option("-o", "--output", metavar="DIR|URL", help="Output folder, or a URL with --state.")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the ledger and the index.")
@conversion_options
@click.option("--pretrained", is_flag=True, help="Load pretrained weights.")
@click.option("--tag-filter", metavar="GLOB", help="All weights of timm whose tag matches, such as '*in1k'.")
@click.option("--exclude-model", multiple=True, metavar="GLOB", help="Exclude models that match. Repeatable.")
@click.option("--format", "formats", multiple=True, help="Also write this format: safetensors, pt2, onnx, torchscript.")
@click.option("--recover", type=FOLDER, metavar="DIR", help="Recover every model from images, without labels.")
@click.option(
    "--calib",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Maximum images to recover from.",
)
@click.option("--measure", type=FOLDER, metavar="DIR", help="Measure every model on images, before and after.")
@click.option("--max-params", callback=_count, metavar="N", help="Maximum number of parameters, such as 30M.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Models at a time.  [default: the cores]")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Time limit per model, in seconds."
)
@click.option(
    "--memory",
    callback=byte_size(10**8),
    metavar="SIZE",
    help="Memory of all jobs together, such as 8GB.  [default: 80 %]",
)
@click.option("--retry-failed", is_flag=True, help="Retry models that failed or are incomplete.")
@click.option("--cluster", metavar="ADDRESS|local", help="Run on a Ray cluster: HOST:PORT, or one of this machine.")
@click.option("--dry-run", is_flag=True, help="Plan every model, print, write nothing.")
@json_option
@debug_option
def convert(patterns: tuple[str, ...], output: str | None, as_json: bool, **options: Any) -> None:
    """Convert the models that PATTERN matches and write them to a folder.

    PATTERN is a glob on timm's names (resnet*), or on those with tags (resnet50.*_in1k), or torchvision:GLOB; or one
    name of hf-hub:ORG/NAME, local-dir:PATH or package.module:factory. Run it again to go on where it ended.
    """
    if output is None and not options["dry_run"]:
        raise click.UsageError("Say where the models go with -o DIR, or see what would be done with --dry-run.")
    let_user_modules_in(None, patterns)
    from blurify.cli import bulk
    from blurify.planning.spec import ARGUMENTS
    from blurify.zoo import catalogue
    from blurify.zoo.settings import Limits, Settings, cores, most_memory

    weighted = options["pretrained"] or options["tag_filter"] is not None
    names = catalogue.choose(
        patterns, exclude=options["exclude_model"], pretrained=weighted, tag_filter=options["tag_filter"]
    )
    asked: dict[str, Any] = {name: options[name] for name in ARGUMENTS}
    if asked["filt_size"] is None and asked["filter"] == Settings.filter:
        asked["filt_size"] = Settings.filt_size  # as it is in the settings of folders that are there
    # Jobs may run in another folder.
    asked |= {name: options[name] and str(options[name].resolve()) for name in ("measure", "recover")}
    settings = Settings(
        **asked,
        pretrained=weighted,
        formats=tuple(sorted({"native", *options["formats"]})),
        calib=options["calib"],
    )
    limits = Limits(options["jobs"] or cores(), options["timeout"], options["memory"] or most_memory())
    if options["dry_run"]:
        ok = bulk.dry_run(names, settings, limits, as_json, options["max_params"])
    else:
        ok = bulk.convert(
            names,
            settings,
            str(output),
            limits,
            options["state"],
            options["retry_failed"],
            options["cluster"],
            as_json,
            options["max_params"],
        )
    if ok is None:
        sys.exit(INTERRUPTED)
    if not ok:
        sys.exit(1)


@zoo.command(context_settings=CONTEXT)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@json_option
@debug_option
def status(folder: Path, as_json: bool) -> None:
    """Say what a folder holds: converted, kept, failed and why, left, and whether a run is under way."""
    from blurify.cli import bulk

    bulk.status(folder, as_json)
