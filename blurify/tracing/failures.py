"""Say which module, which line and why a trace failed."""

from __future__ import annotations

import traceback

from torch import nn

from blurify.tracing.questions import is_ours


def describe_failure(model: nn.Module, path: str, error: Exception) -> str:
    """Return which module, which line, and why."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not is_ours(f.filename)]
    at = f", at {theirs[-1].filename}:{theirs[-1].lineno} `{theirs[-1].line}`" if theirs else ""
    inside = f" in {path!r}" if path else ""
    return f"{type(model).__name__} cannot be traced{inside}{at}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
