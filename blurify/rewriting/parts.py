"""Put converted parts into a copy of a model, in the places of the submodules that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import nn

from blurify.errors import PlanError
from blurify.graph.module import TracedModule
from blurify.graph.tree import is_plain_layer
from blurify.planning.decision import Part
from blurify.rewriting.keep.converting import copy_of, put
from blurify.tracing.fed import Fed
from blurify.tracing.inputs import Inputs, example_for

M = TypeVar("M", bound=nn.Module)
Convert = Callable[[Part, nn.Module, str, Inputs], nn.Module]


def as_root(module: nn.Module) -> tuple[nn.Module, str]:
    """Return what is traced for a part, and the part's own name in it: a layer alone is put into a container."""
    return (nn.Sequential(module).train(module.training), "0") if is_plain_layer(module) else (module, "")


def from_root(root: nn.Module, name: str) -> nn.Module:
    """Return what stands for a converted part in the whole model: a layer without its container, where it is one."""
    if not name or isinstance(root, TracedModule):
        return root
    layer = root.get_submodule(name)
    layer.__dict__["meta"] = vars(root)["meta"]
    return layer


def to_root(part: nn.Module, name: str) -> nn.Module:
    """Return the root that a converted part was made in; the inverse of `from_root`."""
    if not name or isinstance(part, TracedModule):
        return part
    root = nn.Sequential(part).train(part.training)
    root.__dict__["meta"] = vars(part)["meta"]
    return root


def with_parts(
    model: M, parts: Iterable[Part], inputs: Inputs | None, inplace: bool, convert: Convert
) -> tuple[M, dict[tuple[str, str], nn.Module]]:
    """Return a copy of the model with its parts converted, and these by their path and their own root's name.

    Raises:
        PlanError: the model has no such part, does not call it, or does not run with it.
    """
    twin = copy_of(model, inplace)
    given = example_for(model) if inputs is None else inputs
    calls = Fed(twin, given).calls
    made = {}
    for part in parts:
        if part.path not in calls:
            raise PlanError(f"{type(model).__name__} does not call a part {part.path!r}; plan it again.")
        old = twin.get_submodule(part.path)
        root, name = as_root(old)
        result = made[part.path, name] = convert(part, root, name, calls[part.path])
        new = from_root(result, name)
        _keep_attributes(old, new)
        put(twin, old, new)
    _check_runs(twin, given, [path for path, _ in made])
    return twin, made


def _keep_attributes(old: nn.Module, new: nn.Module) -> None:
    """Give a graph the attributes of what it replaces, which others may read."""
    if isinstance(new, TracedModule):
        for name, value in old.__dict__.items():
            if not name.startswith("_") and name not in new.__dict__:
                new.__dict__[name] = value


def _check_runs(twin: nn.Module, inputs: Inputs, paths: Iterable[str]) -> None:
    fed = Fed(twin, inputs)
    silent = [path for path in paths if path not in fed.calls]
    if silent:
        fact = f"stops ({fed.error})" if fed.error else "calls them by another way than its tree of modules"
        raise PlanError(
            f"{type(twin).__name__} {fact} once its parts {', '.join(silent[:3])} are converted; convert these alone."
        )
