"""The `blurify` group: its commands, and the one border where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from click_default_group import DefaultGroup

from blurify._version import __version__
from blurify.cli.convert import convert
from blurify.cli.demo import demo
from blurify.cli.measure import measure
from blurify.cli.options import CONTEXT, debug_option
from blurify.cli.plan import plan
from blurify.cli.recover import recover
from blurify.cli.zoo import zoo
from blurify.errors import BlurifyError

INTERRUPTED = 130


class Border(DefaultGroup):  # type: ignore[misc]
    """A group whose commands end in a sentence and exit code 1 where they would end in a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Pass `--` on to the default command: what follows may begin with a dash."""
        before = args[: args.index("--")] if "--" in args else None
        if before is not None and not set(before) & self.commands.keys():
            args = [str(self.default_cmd_name), *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        with _warnings_as_lines():
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.Abort, click.exceptions.Exit):
                raise
            except KeyboardInterrupt as error:
                click.echo(str(error) or "Interrupted; nothing was written.", err=True)
                sys.exit(INTERRUPTED)
            except Exception as error:
                if ctx.meta.get("debug") or isinstance(error, BrokenPipeError):
                    raise
                raise click.ClickException(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, BlurifyError):
        return text
    return (
        f"an unexpected failure ({type(error).__name__}: {text}); "
        "please report it with what the same command prints with --debug."
    )


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_once()
        yield


def _show_once() -> Callable[..., None]:
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in shown:
            shown.add(line)
            click.echo(f"warning: {line}", err=True)

    return show


@click.group(cls=Border, default="convert", context_settings=CONTEXT)
@click.version_option(__version__, prog_name="blurify", message="%(prog)s %(version)s")
@debug_option
def cli() -> None:
    """Antialias a PyTorch vision network: every shrinking step becomes blur-then-subsample, every weight stays.

    \b
    blurify model.pt --filt-size 4          convert a file (the same as: blurify convert model.pt)
    blurify timm:resnet50 --pretrained      convert an architecture by name
    blurify plan model.pt                   show what would be done and write nothing
    blurify measure model.pt --images DIR   how often its answer changes when images shift
    blurify recover model.pt --images DIR   convert, and refit the weights to the blurs, without labels
    blurify zoo 'resnet*' -o DIR            convert many models
    """


for command in (convert, plan, measure, recover, zoo, demo):
    cli.add_command(command)
