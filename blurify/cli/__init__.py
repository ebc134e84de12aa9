"""The command line. Nothing here imports torch until a command's body runs, so that help answers at once."""

from __future__ import annotations

from blurify.cli.group import cli


def main() -> None:
    """Run the command line: the console script's entry point.

    >>> main()  # doctest: +SKIP
    """
    import sys

    # A terminal or pipe of few characters must not turn a dash in a message into a traceback.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    cli(prog_name="blurify")
