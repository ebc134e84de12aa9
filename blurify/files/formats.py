"""Write models: one table of formats, their suffixes and writers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from blurify.errors import ArgumentError, FileError
from blurify.files import read_back
from blurify.files.atomic import Check
from blurify.files.onnx_graph import require_onnx, save_onnx
from blurify.files.program import ProgramSignature, save_program
from blurify.files.torchscript_out import require_torchscript, save_torchscript
from blurify.files.untrusted.container import identify
from blurify.files.writing import write
from blurify.verifying.verdict import Row


@dataclass(frozen=True)
class SaveOptions:
    """Hold a writer's options besides the model and the path.

    `arch` is the model's architecture where it is known, `example` an image `(1, C, H, W)` that the model takes, or
    the signature of the program that it was. `check` is called on what was written, before it gets its name.
    """

    arch: str | None = None
    example: Tensor | ProgramSignature | None = None
    dynamic_size: bool = False
    force: bool = False
    check: Check | None = None


@dataclass(frozen=True)
class Format:
    """One of them: its suffixes, the usual one first, what writes and reads it, and what a user is told of it.

    A program runs without blurify; a recipe names the architecture, and so needs to be told it.

    What `write` returns is said to the user. `check` refuses, before any slow work, where it could not be written.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[nn.Module, Path, SaveOptions], str | None]
    read: read_back.Reader
    description: str
    is_program: bool = False
    is_recipe: bool = False
    check: Callable[[], None] = lambda: None

    @property
    def suffix(self) -> str:
        """That of an output which is not named."""
        return self.suffixes[0]

    def write_proved(self, model: nn.Module, path: Path, wanted: SaveOptions) -> tuple[str | None, Row | None]:
        """Write a file, read it back and run it; return what `write` says, and the row of that proof.

        Raises:
            FileError: the file does not compute what the model does, so nothing is written.
        """
        rows: list[Row] = []

        def check(temporary: Path) -> None:
            calls = read_back.calls_for(wanted.example, wanted.dynamic_size)
            rows.append(read_back.read_back(self.read, model, temporary, wanted.arch, calls))
            read_back.refuse_wrong(rows[0])

        remark = self.write(model, path, replace(wanted, check=check))
        return remark, rows[0] if rows else None


def _write_recipe(model: nn.Module, path: Path, wanted: SaveOptions) -> None:
    write(model, path, wanted.arch, wanted.force, wanted.check)


def _write_module(model: nn.Module, path: Path, wanted: SaveOptions) -> None:
    write(model, path, None, wanted.force, wanted.check)


def _write_program(model: nn.Module, path: Path, wanted: SaveOptions) -> None:
    save_program(
        model, path, _example(wanted), dynamic_size=wanted.dynamic_size, force=wanted.force, check=wanted.check
    )


def _write_onnx(model: nn.Module, path: Path, wanted: SaveOptions) -> None:
    save_onnx(model, path, _example(wanted), dynamic_size=wanted.dynamic_size, force=wanted.force, check=wanted.check)


def _write_torchscript(model: nn.Module, path: Path, wanted: SaveOptions) -> None:
    save_torchscript(
        model, path, _example(wanted), dynamic_size=wanted.dynamic_size, force=wanted.force, check=wanted.check
    )


def _example(wanted: SaveOptions) -> Tensor | ProgramSignature:
    if wanted.example is None:
        raise ArgumentError("A program is recorded from an example of the model's input; give one.")
    return wanted.example


RECIPE = "recipe and weights; read it with blurify.load"
PICKLE_SUFFIXES = (".pt", ".pth")
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("native", PICKLE_SUFFIXES, _write_recipe, read_back.read_recipe, RECIPE, is_recipe=True),
        Format("safetensors", (".safetensors",), _write_recipe, read_back.read_recipe, RECIPE, is_recipe=True),
        Format(
            "module",
            PICKLE_SUFFIXES,
            _write_module,
            read_back.read_module,
            "a pickled module; read it with torch.load and weights_only=False",
        ),
        Format(
            "pt2",
            (".pt2",),
            _write_program,
            read_back.read_program,
            "a program; read it with torch.export.load",
            is_program=True,
        ),
        Format(
            "onnx",
            (".onnx",),
            _write_onnx,
            read_back.read_onnx,
            "an ONNX graph, checked by onnx.checker",
            is_program=True,
            check=require_onnx,
        ),
        Format(
            "torchscript",
            (".torchscript", *PICKLE_SUFFIXES),
            _write_torchscript,
            read_back.read_torchscript,
            "a TorchScript trace; read it with torch.jit.load",
            is_program=True,
            check=require_torchscript,
        ),
    )
}


def choose_format(path: Path | None, name: str | None = None) -> Format | None:
    """Return the format that a name asks for, or else the output's suffix; None where neither tells.

    >>> choose_format(Path("resnet18.onnx")).name
    'onnx'

    Raises:
        ArgumentError: the suffix is that of other formats.
    """
    suffix = "" if path is None else path.suffix.lower()
    claiming = [form for form in FORMATS.values() if suffix in form.suffixes]
    if name is None:
        return claiming[0] if len(claiming) == 1 else None
    wanted = FORMATS[name]
    if claiming and wanted not in claiming:
        raise ArgumentError(
            f"The output {path} is named as one of --format {claiming[0].name}, but --format {name} is asked for; "
            f"name it *{wanted.suffix}, or leave --format out."
        )
    return wanted


# Of a program that was read, what is written unless something else is asked for.
OWN_FORMATS = {"program": "pt2", "torchscript": "pt2", "onnx": "onnx"}


def own_format(source: Path) -> Format | None:
    """Return the format in which an exported program is written by default; None for any other source.

    >>> own_format(Path("resnet18.pt2")).name
    'pt2'
    """
    try:
        name = OWN_FORMATS.get(identify(source)) if source.is_file() else None
    except FileError:  # it will be said when the file is read
        return None
    return None if name is None else FORMATS[name]


def is_onnx(source: Path) -> bool:
    """Return whether a file is an ONNX graph, which is converted as it is.

    >>> is_onnx(Path("resnet18.onnx"))
    True
    """
    form = own_format(source)
    return form is not None and form.name == "onnx"


def fitting_format(asked: Format | None, arch: str | None) -> Format:
    """Choose the format: the user's, else a recipe if the name of the architecture is known, else a pickle.

    >>> fitting_format(None, "timm:resnet18").name
    'native'

    Raises:
        ArgumentError: a recipe is asked for, and the name is not known.
    """
    form = asked or FORMATS["module" if arch is None else "native"]
    if form.is_recipe and arch is None:
        raise ArgumentError(
            f"The name of the model's architecture is not known, which a recipe (--format {form.name}) is made of; "
            "give a state_dict with --arch, or write --format module."
        )
    return form
