"""Our own format: a recipe and the unchanged-name state_dict, in a `.pt` that `torch.load(weights_only=True)` reads.

    {"format": "blurify", "version": 1,
     "recipe": {"arch": "timm:resnet18", "plan": "{...}", "input_shapes": [[1, 3, 224, 224]],
                "versions": {"torch": "2.6.0", ...}},
     "state_dict": {...}}

Nothing in it is code. Reading builds the architecture, applies the plan and loads the weights strictly.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor, nn

from blurify.errors import ArchitectureError, FileError, PlanError, UnsafeFileError
from blurify.files.architecture import Architecture, build_architecture
from blurify.files.state_dict import load_weights
from blurify.planning import Plan
from blurify.tracing.inputs import example_for, random_batch

FORMAT = "blurify"
VERSION = 1


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
    recipe: dict[str, Any] = {"arch": arch, "plan": plan.to_json(), "versions": versions()}
    shapes = getattr(model, "meta", {}).get("input_shapes")
    if shapes is not None:
        recipe["input_shapes"] = [list(shape) for shape in shapes]
    return {"format": FORMAT, "version": VERSION, "recipe": recipe, "state_dict": model.state_dict()}


def from_content(
    content: dict[str, Any], path: Path, *, arch: str | None = None, allow: Collection[str] = ()
) -> tuple[nn.Module, str]:
    """Rebuild the converted model, and say which architecture it was made from.

    >>> model, arch = from_content(torch.load("model.blur4.pt"), Path("model.blur4.pt"))
    """
    recipe, state = _checked(content, path)
    named = _permitted(recipe["arch"], path, arch, allow)
    model = build_architecture(named)
    try:
        inputs = _inputs(recipe.get("input_shapes"), model)
        converted = Plan.from_json(recipe["plan"]).apply(model, inplace=True, example_inputs=inputs)
    except PlanError as error:
        raise FileError(f"{path} cannot be rebuilt: {error}; {_compare(recipe.get('versions'))}.") from error
    load_weights(converted, state, arch=named, path=path)
    return converted.eval(), named


def _inputs(shapes: Any, model: nn.Module) -> tuple[Tensor, ...] | None:
    """What the model was traced on, in shape."""
    if not shapes:
        return None
    return tuple(random_batch(tuple(shape), example_for(model).args[0]) for shape in shapes)


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


def _checked(content: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise FileError(
            f"{path} is in version {version!r} of blurify's format, and this blurify reads up to {VERSION}; "
            "upgrade blurify."
        )
    recipe, state = content.get("recipe"), content.get("state_dict")
    whole = isinstance(recipe, dict) and all(isinstance(recipe.get(key), str) for key in ("arch", "plan"))
    if not whole or not isinstance(state, dict):
        raise FileError(f"{path} is in blurify's format but lacks its recipe or its weights; convert the model again.")
    return recipe, state  # type: ignore[return-value]


def _permitted(named: str, path: Path, arch: str | None, allow: Collection[str]) -> str:
    if arch is not None and arch != named:
        raise ArchitectureError(f"{path} was made from {named}, not from {arch}; leave --arch out, or give that.")
    if Architecture.parse(named).is_known or arch == named or named in allow:
        return named
    raise UnsafeFileError(
        f"{path} asks to import {named}, which is neither timm's nor torchvision's, so nothing was run; "
        f"if you trust it, add --allow {named}."
    )


def _compare(written: object) -> str:
    now = versions()
    if not isinstance(written, dict):
        return "convert the model again"
    changed = [
        f"{name} {written[name]} then, {now[name]} now" for name in now if written.get(name, now[name]) != now[name]
    ]
    return f"it was written with other versions ({', '.join(changed)})" if changed else "convert the model again"
