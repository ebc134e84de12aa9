"""From a converted model to a file: our own format where the architecture is known, else a pickled module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from blurify.errors import ArgumentError, FileError, one_line
from blurify.files import native
from blurify.files.atomic import Check, check_output, write_atomically
from blurify.files.safetensors_file import SUFFIX, to_bytes
from blurify.planning.plan import Plan, plan_of


def save(model: nn.Module, path: str | os.PathLike[str], *, arch: str | None = None, force: bool = False) -> None:
    """Write a converted model, whole or not at all.

    With `arch` the file is a recipe and weights, which `load` reads without trusting it; without, a pickled module.
    Named `*.safetensors` it is in that format, and needs `arch`.

    >>> save(blurify.antialias(model), "resnet18.blur4.pt", arch="timm:resnet18")
    """
    write(model, Path(path), arch, force)


def write(model: nn.Module, file: Path, arch: str | None, force: bool, check: Check | None = None) -> None:
    """Do what `save` does, where `check` refuses what was written wrongly."""
    check_output(file, force=force)
    content = model if arch is None else native.to_content(model, _plan_of(model), arch)
    if file.suffix.lower() == SUFFIX:
        write_atomically(file, lambda opened: _write_safetensors(content, opened, file), check)
    else:
        write_atomically(file, lambda opened: _pickle(content, opened, file), check)


def _write_safetensors(content: Any, opened: BinaryIO, path: Path) -> None:
    if isinstance(content, nn.Module):
        raise FileError(
            f"{path} would hold weights without the network that they are of; "
            "name its architecture with arch (--arch), or write a .pt."
        )
    opened.write(to_bytes(content, path))


def _plan_of(model: nn.Module) -> Plan:
    plan = plan_of(model)
    if plan is None:
        kind = type(model).__name__
        raise ArgumentError(
            f"Only a model that antialias() returned can be saved with arch, and this {kind} has no plan."
        )
    return plan


def _pickle(content: Any, opened: Any, path: Path) -> None:
    try:
        torch.save(content, opened)
    except OSError:
        raise
    except Exception as error:  # pickle raises whatever the object's own code raises
        if isinstance(error.__context__, OSError):  # torch covers what the disk said by what its archive missed then
            raise error.__context__ from error
        fact = one_line(error)
        message = f"the converted model cannot be pickled to {path}: {fact}; "
        raise FileError(message + "write a program, named *.pt2, or name its architecture with arch.") from error
