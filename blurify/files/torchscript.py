"""TorchScript archives, by PyTorch's own converter to programs; see `program`.

TorchScript is a language of its own that computes with tensors, and yet an archive may do more: some operators write
files, and what is called `__setstate__` runs when the archive is loaded. So its text is read first for such names.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.errors import ArgumentError, BlurifyError, FileError, UnsafeFileError
from blurify.files.graphs import named_by_weights, unguarded, with_state
from blurify.files.untrusted.zipped import REFUSED, Entries, packed, read_entries
from blurify.tracing.export import quietly
from blurify.tracing.inputs import DEFAULT_INPUT_SIZE, MOST_CHANNELS, random_batch

KNOWN = re.compile(
    r"data\.pkl|constants\.pkl|version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    r"|code/[\w./]+\.py|(?:data|constants)/\d+"
)
IGNORED = re.compile(r".+\.debug_pkl|extra/.+|mobile_debug_handles\.pkl|bytecode\.pkl|model\.json|traced_inputs.+")
WORD = re.compile(r"[A-Za-z_]\w*")
NAMESPACE = re.compile(r"\bops\.(?:prim|aten|torchvision)\.\w")


def read_torchscript(path: Path, size: tuple[int, ...] | None = None) -> fx.GraphModule:
    """The model in a TorchScript archive, as a graph over its weights, recorded from an image of that size.

    >>> model = read_torchscript(Path("resnet18.ts"), (3, 224, 224))

    Raises:
        UnsafeFileError: loading it would run something, or its text names what does more than compute.
        ArgumentError: the model does not take such an image.
        FileError: the archive is damaged, or the converter does not know something in it.
        BlurifyError: this torch has no converter.
    """
    converter = find_converter()
    entries = read_entries(path, KNOWN, IGNORED)
    check_text(entries, path)
    try:
        with quietly():
            load: Any = torch.jit.load
            script = load(packed(entries), map_location="cpu").eval()
            check_sizes(script)
    except Exception as error:  # a damaged archive can fail in any way at all
        raise FileError(f"{path} cannot be read: {_fact(error)}; save or copy it again.") from error
    example = random_batch((2, *(size or _input_size(script))), next(script.parameters(), torch.empty(0)))
    _try(script, example, path)
    try:
        with quietly(), torch.no_grad():
            model = unguarded(converter(script, (example,), {}).convert())
    except Exception as error:
        hint = "convert the nn.Module that it was made from"
        raise FileError(f"PyTorch's converter cannot make a program of {path}: {_fact(error)}; {hint}.") from error
    return named_by_weights(with_state(model, dict(script.state_dict(keep_vars=True))))


def find_converter() -> Any:
    """PyTorch's converter, which is no public part of it.

    Raises:
        BlurifyError: it is gone, or elsewhere.
    """
    try:
        from torch._export.converter import TS2EPConverter
    except ImportError as error:
        raise BlurifyError(
            f"torch {torch.__version__} has no converter of TorchScript, which was no public part of it; give "
            "the nn.Module that the archive was made from."
        ) from error
    return TS2EPConverter


def check_text(entries: Entries, path: Path) -> None:
    """Refuse an archive whose text names what does more than compute, wherever it does.

    Raises:
        UnsafeFileError: it does.
    """
    for name, content in entries.items():
        if name.endswith(".pkl") and b"torch.classes" in content:
            raise UnsafeFileError(f"{path} holds an object of a class outside TorchScript; {REFUSED}.")
        if not name.endswith(".py"):
            continue
        text = content.decode(errors="replace")
        words = set(WORD.findall(text))
        bad = sorted(words & forbidden_words())
        if not bad and len(re.findall(r"\bops\b", text)) != len(NAMESPACE.findall(text)):
            bad = ["ops"]
        if bad:
            raise UnsafeFileError(
                f"{path} uses the name {bad[0]!r} in {name}, which can do more than compute; {REFUSED}."
            )


@lru_cache
def forbidden_words() -> frozenset[str]:
    """The names of all operators that are told a file's, and of what runs on its own."""
    schemas = torch._C._jit_get_all_schemas()
    told = {s.name for s in schemas for a in s.arguments if re.search("file|url", a.name)}
    return frozenset({name.partition("::")[2] for name in told} | {"__setstate__", "classes", "rpc", "distributed"})


def check_sizes(script: nn.Module) -> None:
    """Refuse weights that declare more values than there are, such as one value spread over terabytes."""
    for name, value in script.state_dict().items():
        if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name} declares more values than it has")


def _input_size(script: nn.Module) -> tuple[int, ...]:
    kernel = next((value for value in script.parameters() if value.dim() == 4), None)
    known = kernel is not None and kernel.shape[1] <= MOST_CHANNELS
    return (int(kernel.shape[1]) if kernel is not None and known else 3, *DEFAULT_INPUT_SIZE[1:])


def _try(script: nn.Module, example: Tensor, path: Path) -> None:
    try:
        with quietly(), torch.no_grad():
            script(example.clone())
    except Exception as error:
        size = ",".join(str(number) for number in example.shape[1:])
        raise ArgumentError(
            f"{path} does not accept an input of size {size}: {_fact(error)}; name the size it takes with --input-size."
        ) from error


def _fact(error: BaseException) -> str:
    """Of TorchScript's traceback the last line, of anything else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fact = (lines[-1] if "Traceback" in str(error) else lines[0]) if lines else type(error).__name__
    return fact[:200].rstrip(".:")
