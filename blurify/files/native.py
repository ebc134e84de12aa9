"""Our own format: a recipe and the unchanged-name state_dict, in a `.pt` that `torch.load(weights_only=True)` reads.

    {"format": "blurify", "version": 2,
     "recipe": {"arch": "timm:resnet18", "plan": "{...}", "form": "class", "input_shapes": [[1, 3, 224, 224]],
                "versions": {"torch": "2.6.0", ...}},
     "state_dict": {...}}

Nothing in it is code. Reading builds the architecture, applies the plan and loads the weights strictly.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor, nn

from blurify.errors import ArchitectureError, FileError, PlanError, UnsafeFileError
from blurify.files.architecture import Architecture, build_architecture
from blurify.files.recipe import VERSION, read_recipe
from blurify.files.state_dict import load_weights
from blurify.files.untrusted.bounded import Bounded
from blurify.planning.plan import Plan
from blurify.tracing.inputs import example_for, random_batch

FORMAT = "blurify"


def is_native(content: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a file's content is in our own format, of any version.

    >>> is_native({"format": "blurify", "version": 1})
    True
    """
    return isinstance(content, dict) and content.get("format") == FORMAT


def to_content(model: nn.Module, plan: Plan, arch: str) -> dict[str, Any]:
    """Return what is written for a converted model of a known architecture.

    >>> sorted(to_content(converted, plan, "timm:resnet18"))
    ['format', 'recipe', 'state_dict', 'version']
    """
    meta: dict[str, Any] = getattr(model, "meta", {})
    form = meta.get("blurify_form", "graph")
    recipe: dict[str, Any] = {"arch": arch, "plan": plan.to_json(), "form": form, "versions": versions()}
    shapes = meta.get("input_shapes")
    if shapes is not None:
        recipe["input_shapes"] = [list(shape) for shape in shapes]
    return {"format": FORMAT, "version": VERSION, "recipe": recipe, "state_dict": model.state_dict()}


def from_content(
    content: dict[str, Any], path: Path, *, arch: str | None = None, allow: Collection[str] = ()
) -> tuple[nn.Module, str]:
    """Rebuild the converted model, and say which architecture it was made from.

    >>> model, arch = from_content(torch.load("model.blur4.pt"), Path("model.blur4.pt"))
    """
    recipe, state = read_recipe(content, path)
    named = _permitted(recipe.arch, path, arch, allow)
    try:
        plan = Plan.from_json(recipe.plan)
        model = _built(named, state)
        inputs = _inputs(recipe.input_shapes, model)
        converted = plan.apply(model, inplace=True, form=recipe.form, example_inputs=inputs)
    except PlanError as error:
        fact = str(error).rstrip(".")
        raise FileError(f"{path} cannot be rebuilt: {fact}; {_compare(recipe.versions)}.") from error
    load_weights(converted, state, arch=named, path=path)
    return converted.eval(), named


def _built(arch: str, state: dict[str, Any]) -> nn.Module:
    """Return the architecture; one that the file alone names may not take far more than its weights."""
    with Bounded(state) if Architecture.parse(arch).is_known else nullcontext():
        return build_architecture(arch)


def _inputs(shapes: tuple[tuple[int, ...], ...], model: nn.Module) -> tuple[Tensor, ...] | None:
    """Return the shapes that the model was traced on."""
    if not shapes:
        return None
    return tuple(random_batch(shape, example_for(model).args[0]) for shape in shapes)


def versions() -> dict[str, str]:
    """Return the versions that decide what an architecture's name means.

    >>> sorted(versions())
    ['blurify', 'python', 'timm', 'torch', 'torchvision']
    """
    return {"python": platform.python_version()} | {
        name: _version(name) for name in ("blurify", "torch", "torchvision", "timm")
    }


def _version(package: str) -> str:
    if package == "blurify":
        from blurify._version import __version__

        return __version__
    return importlib.metadata.version(package)


def _permitted(named: str, path: Path, arch: str | None, allow: Collection[str]) -> str:
    if arch is not None and arch != named:
        raise ArchitectureError(f"{path} was made from {named}, not from {arch}; leave --arch out, or give that.")
    if Architecture.parse(named).is_known or arch == named or named in allow:
        return named
    raise UnsafeFileError(
        f"{path} asks to import {named}, which is neither timm's nor torchvision's, so nothing was run; "
        f"if you trust it, add --allow {named}."
    )


def _compare(written: Mapping[str, str]) -> str:
    now = versions()
    changed = [
        f"{name} {written[name]} then, {now[name]} now" for name in now if written.get(name, now[name]) != now[name]
    ]
    return f"it was written with other versions ({', '.join(changed)})" if changed else "convert the model again"
