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
# A class or a function of the archive itself, whatever the words of its path.
OWN_NAME = re.compile(r"\b__torch__(?:\.(?!torch\.classes\b)\w+)+")
_PURE = "nms|roi_align|roi_pool|ps_roi_align|ps_roi_pool|deform_conv2d|box_iou_rotated"
NAMESPACE = re.compile(rf"\bops\.(?:prim\.\w|aten\.\w|torchvision\.(?:{_PURE})\b)")
# Made by torch.jit.optimize_for_inference for one kind of processor, and lost when it is saved.
OPTIMIZED = "ConstantMKLDNNTensor"


def read_torchscript(path: Path, size: tuple[int, ...] | None = None) -> fx.GraphModule:
    """Return the model in a TorchScript archive, as a graph over its weights, recorded from an image of that size.

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
    _check_arguments(script, path)
    example = _example(script, size or _input_size(script), path)
    try:
        with quietly(), torch.no_grad():
            model = unguarded(converter(script, (example,), {}).convert())
    except Exception as error:
        hint = "convert the nn.Module that it was made from"
        raise FileError(f"PyTorch's converter cannot make a program of {path}: {_fact(error)}; {hint}.") from error
    parameters = {name: nn.Parameter(value, value.requires_grad) for name, value in script.named_parameters()}
    return named_by_weights(with_state(model, script.state_dict(keep_vars=True) | parameters))


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
        text = OWN_NAME.sub("", content.decode(errors="replace"))
        if OPTIMIZED in text:
            raise FileError(
                f"{path} was saved after torch.jit.optimize_for_inference, which leaves its weights out; "
                "save the archive before that."
            )
        words = set(WORD.findall(text))
        bad = sorted(words & forbidden_words())
        others = re.sub(NAMESPACE, "", text)
        if not bad and (other := re.search(r"\bops\b(?:\s*\.\s*\w+)*", others)):
            bad = [other.group()]
        if bad:
            raise UnsafeFileError(
                f"{path} uses the name {bad[0]!r} in {name}, which can do more than compute; {REFUSED}."
            )


@lru_cache
def forbidden_words() -> frozenset[str]:
    """Return the names of all operators that are told a file's, and of what runs on its own."""
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


def _example(script: nn.Module, size: tuple[int, ...], path: Path) -> Tensor:
    """Return an image that the script takes, of its weights' type; a frozen one has none that say it."""
    own = [value.dtype for value in script.parameters() if value.is_floating_point()][:1]
    errors: list[Exception] = []
    for dtype in own or (torch.float32, torch.float16, torch.bfloat16):
        example = random_batch((2, *size), torch.empty(0, dtype=dtype))
        try:
            with quietly(), torch.no_grad():
                script(example.clone())
        except Exception as error:
            errors.append(error)
        else:
            return example
    shown = ",".join(map(str, size))
    fact = _fact(errors[0])
    raise ArgumentError(
        f"{path} does not accept an input of size {shown}: {fact}; name the size it takes with --input-size."
    ) from errors[0]


def _check_arguments(script: Any, path: Path) -> None:
    """Refuse a script that takes something else than one tensor, as detectors take lists of images."""
    given = [argument for argument in script.forward.schema.arguments[1:] if not argument.has_default_value()]
    if [str(argument.type) for argument in given] != ["Tensor"]:
        said = ", ".join(f"{argument.name}: {argument.type}" for argument in given)
        raise FileError(
            f"{path} takes ({said}), and PyTorch's converter records archives of one tensor; convert the nn.Module "
            "that it was made from, or give a .pt2 of it."
        )


def _fact(error: BaseException) -> str:
    """Of TorchScript's traceback the last line, of anything else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fact = (lines[-1] if "Traceback" in str(error) else lines[0]) if lines else type(error).__name__
    return fact[:200].rstrip(".:")
