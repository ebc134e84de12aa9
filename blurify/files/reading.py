"""From a file or an architecture's name to a model: the one place that looks at what a file holds."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from blurify.errors import ArchitectureError, ArgumentError, FileError
from blurify.files import folder as folders
from blurify.files import native
from blurify.files.architecture import build_architecture, looks_like_architecture, suggestions
from blurify.files.checkpoint import Part, find_module, find_parts
from blurify.files.contents import check_size, read_contents
from blurify.files.fitting import fitting
from blurify.files.guessing import guesses, only, text_of
from blurify.files.options import ReadOptions
from blurify.files.program import ProgramSignature, read_program
from blurify.files.state_dict import load_weights
from blurify.files.torchscript import read_torchscript
from blurify.files.untrusted.bounded import Bounded
from blurify.files.untrusted.container import PROGRAMS, identify
from blurify.files.untrusted.safety import Trust
from blurify.tracing.inputs import example_for
from blurify.verifying.outputs import compare, run

# As an architecture, the one that the weights fit.
AUTO = "auto"

Form = Literal["architecture", "state_dict", "module", "native", "program", "torchscript", "onnx"]


@dataclass(frozen=True)
class LoadedModel:
    """A model and how it was come by: `arch` is known unless it was a pickled module, `path` unless it was a name.

    `taken` says where in a checkpoint the weights were, unless the file holds nothing else. A `torch.export` archive
    has a `signature`.

    >>> read_model("timm:resnet18").form
    'architecture'
    """

    model: nn.Module
    form: Form
    arch: str | None
    path: Path | None
    taken: str = ""
    signature: ProgramSignature | None = None

    @property
    def is_program(self) -> bool:
        """Return whether it is a graph of operators, without a class or modes."""
        return self.form in PROGRAMS


def read_model(source: str | os.PathLike[str], **given: Any) -> LoadedModel:
    """Read a model from a file or folder, whatever it holds, or build it from an architecture's name.

    The keyword arguments are the fields of `ReadOptions`.

    >>> read_model("weights.pth", arch="torchvision:resnet18").form
    'state_dict'
    """
    options = ReadOptions(**given)
    text = os.fspath(source)
    path = Path(text.removeprefix(folders.PREFIX))
    if not path.exists() and looks_like_architecture(text):
        if options.ema:
            raise ArgumentError(f"{text} is an architecture, of which there are no averaged weights; remove --ema.")
        return _from_name(text, options)
    if options.pretrained:
        raise ArgumentError(f"Pretrained weights go with a name such as timm:resnet18, but {text} names a file.")
    if not path.exists():
        raise FileError(f"There is no file {text}; {_advice(text)}.")
    if not path.is_dir():
        if identify(path) in PROGRAMS:
            check_size([path], path, options.max_size)
            return _from_program(path, options)
        return _from_content(read_contents(path, options.trust, options.max_size), path, options)
    file, own = folders.weights_in(path), None if options.arch else folders.architecture_in(path)
    return _from_content(read_contents(file, options.trust, options.max_size), file, options, own)


def load(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    allow: Collection[str] = (),
    max_size: int | None = None,
) -> nn.Module:
    """Rebuild a converted model, in eval mode, from a file that `blurify` wrote, of at most `max_size` bytes.

    >>> model = load("resnet18.blur4.pt")
    """
    file = Path(path)
    content = read_contents(file, Trust(allow), max_size)
    if native.is_native(content):
        return native.from_content(content, file, arch=arch, allow=allow)[0]
    if isinstance(content, nn.Module):
        return content.eval()
    raise FileError(f"{file} is not in blurify's format; convert it first with: blurify {file}")


def _from_name(text: str, options: ReadOptions) -> LoadedModel:
    if options.arch is not None:
        raise ArgumentError(
            f"{text} is an architecture; --arch {options.arch} cannot be combined with it. Remove --arch."
        )
    model = build_architecture(text, pretrained=options.pretrained).eval()
    # A library may build a trained model otherwise than an untrained one; such a model cannot be written as a recipe.
    written = text if not options.pretrained or rebuilds(model, text) else None
    return LoadedModel(model, "architecture", written, None)


def _from_program(path: Path, options: ReadOptions) -> LoadedModel:
    if options.arch is not None:
        raise ArgumentError(f"{path} is an exported program, which needs no --arch {options.arch}; remove it.")
    form = identify(path)
    if form == "torchscript":
        return LoadedModel(read_torchscript(path, options.input_size), "torchscript", None, path)
    if form == "onnx":
        return LoadedModel(_running(path, options.input_size), "onnx", None, path)
    model, signature = read_program(path)
    return LoadedModel(model, "program", None, path, signature=signature)


def _running(path: Path, input_size: tuple[int, ...] | None) -> nn.Module:
    """Return an ONNX graph as a module that onnxruntime runs."""
    from blurify.onnx.running import require_onnx

    require_onnx()
    from blurify.onnx.module import OnnxModule

    return OnnxModule(path, input_size)


def _from_content(content: Any, path: Path, options: ReadOptions, own: str | None = None) -> LoadedModel:
    """Return the model of a file; `own` is the architecture that not the user but what lies next to the file names."""
    if native.is_native(content):
        return LoadedModel(*_rebuilt(content, path, options.arch, options.allow), path)
    parts = find_parts(content)
    module = find_module(parts, path, ema=options.ema, key=options.key)
    if module is not None:
        taken = f"the model is the one under {'.'.join(module.place)!r}" if module.place else ""
        return LoadedModel(module.value, "module", None, path, taken if len(parts) > 1 else "")
    states = [part for part in parts if not isinstance(part.value, nn.Module)]
    if not states:
        raise FileError(f"{path} holds {_describe(content)}, not a model or a state_dict; give a file with one.")
    return _from_weights(states, path, options, own)


def _from_weights(parts: list[Part], path: Path, options: ReadOptions, own: str | None) -> LoadedModel:
    named = options.arch or own
    if named is None:
        guess = text_of(guesses(part.value for part in parts))
        advice = guess or "name it with --arch timm:NAME, torchvision:NAME or package.module:factory"
        raise ArchitectureError(f"{path} holds a state_dict, which is weights without an architecture; {advice}.")
    if named != AUTO:
        return _fitted(parts, path, options, named)
    found = guesses(part.value for part in parts)
    return _fitted(parts, path, options, only(found, path, lambda names: _same(parts, path, options, names)))


def _same(parts: list[Part], path: Path, options: ReadOptions, names: list[str]) -> bool:
    """Return whether the architectures compute the same with the weights: two libraries may have one network."""
    models = [_fitted(parts, path, options, name).model for name in names]
    inputs = example_for(models[0])
    with torch.no_grad():
        outputs = [run(model, inputs) for model in models]
    return all(compare(outputs[0], other).ok for other in outputs[1:])


def _fitted(parts: list[Part], path: Path, options: ReadOptions, named: str) -> LoadedModel:
    largest = max((part.value for part in parts), key=len)
    with nullcontext() if options.arch else Bounded(largest):
        model = build_architecture(named).eval()
    fit = fitting(parts, model, path=path, arch=named, ema=options.ema, key=options.key)
    random = load_weights(model, fit.state(), arch=named, path=path, backbone=options.backbone)
    guessed = f"the architecture is {named}" if options.arch == AUTO else ""
    return LoadedModel(model, "state_dict", named, path, _and(guessed, fit.text(), random))


def _and(*facts: str) -> str:
    return "; ".join(filter(None, facts))


def _rebuilt(content: Any, path: Path, arch: str | None, allow: Collection[str]) -> tuple[nn.Module, Form, str]:
    model, named = native.from_content(content, path, arch=arch, allow=allow)
    return model, "native", named


def rebuilds(model: nn.Module, arch: str) -> bool:
    """Say whether the architecture of that name is the model's, but for the values of its weights.

    >>> rebuilds(timm.create_model("resnet18", num_classes=10).eval(), "timm:resnet18?num_classes=10")
    True
    """

    def facts(of: nn.Module) -> tuple[str, list[str], dict[str, object]]:
        plain: dict[str, object] = {
            key: value for key, value in vars(of).items() if isinstance(value, (bool, int, float, str))
        }
        return repr(of), sorted(of.state_dict()), plain

    return facts(model) == facts(build_architecture(arch).eval())


def _describe(content: Any) -> str:
    kind = type(content).__name__
    if not isinstance(content, dict):
        return f"a {kind}"
    keys = ", ".join(str(key) for key in list(content)[:3])
    return f"a dict of {keys}" if keys else "an empty dict"


def _advice(text: str) -> str:
    if any(mark in text for mark in "/\\.") or not text:
        return "check the name"
    close = suggestions(text)
    return f"did you mean {' or '.join(close[:4])}" if close else "check the name"
