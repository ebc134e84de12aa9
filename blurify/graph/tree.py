"""The tree of modules under a graph: containers without code of their own, over the original's layers and tensors.

A stable, public path: pickled converted models name `KeepsExtraState`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import Tensor, nn

# What a tree node is, apart from its class. `_version` goes into a state_dict's metadata: some models rebuild
# themselves when they load one of an older version.
REGISTRIES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "_version")
# What the root has beside: hooks that calling the model runs.
HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)


def has_hooks(module: nn.Module) -> bool:
    """Return whether calling the module runs hooks."""
    registries = (getattr(module, name) for name in HOOKS)
    return any(isinstance(registry, dict) and registry for registry in registries)


def foreign_hooks(module: nn.Module) -> bool:
    """Return whether calling the module runs hooks that are no part of its library's own code."""
    registries = (getattr(module, name) for name in HOOKS)
    hooks = (hook for each in registries if isinstance(each, dict) for hook in each.values() if callable(hook))
    return any(not is_of_library(module, hook) for hook in hooks)


def is_of_library(module: nn.Module, hook: object) -> bool:
    """Return whether a hook was put on the module by the installed library that the module is of."""
    library = type(module).__module__.partition(".")[0]
    code = getattr(hook, "__code__", None)
    return home(hook).partition(".")[0] == library and "site-packages" in getattr(code, "co_filename", "")


def home(hook: object) -> str:
    """Return the name of the module of Python that a hook is defined in."""
    return str(getattr(hook, "__module__", ""))


class KeepsExtraState(nn.Module):
    """A container whose original had a `get_extra_state` of its own: what that gave stays in the state_dict."""

    extra_state: Any

    def get_extra_state(self) -> Any:
        """Return the original's attribute as it was traced, or as it was loaded since."""
        return self.extra_state

    def set_extra_state(self, state: Any) -> None:
        """Keep what a state_dict holds."""
        self.extra_state = state


def bare_copy(module: nn.Module, beside: tuple[str, ...] = ()) -> nn.Module:
    """Return a plain module with the children, parameters, buffers and mode of `module`, in registries of its own."""
    bare = nn.Module()
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        bare = KeepsExtraState()
        bare.extra_state = module.get_extra_state()
    for registry in REGISTRIES + beside:
        bare.__dict__[registry] = copy.copy(getattr(module, registry))
    bare.training = module.training
    return bare


def computed_copies(tree: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Copies, by identity, of the tensors that hooks compute (old weight norms, pruning), which deepcopy refuses."""
    for module in tree.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield id(value), value.detach().clone()


def is_plain_layer(module: nn.Module) -> bool:
    """Return whether the module is a layer of `torch.nn` without children: what a tracer never looks into."""
    return type(module).__module__.startswith("torch.nn.") and not module._modules and type(module) is not nn.Module


def copy_containers(module: nn.Module, leaves: set[str], prefix: str = "") -> nn.Module:
    """Copy the tree of containers, sharing the modules at the `leaves` paths, all parameters and all buffers.

    Layers of `torch.nn` that no graph calls (a head of another mode, all layers of an exported graph) are shared too.
    """
    if prefix.rstrip(".") in leaves or (prefix and is_plain_layer(module)):
        return module
    bare = bare_copy(module, () if prefix else HOOKS)
    for name, child in module._modules.items():
        bare._modules[name] = None if child is None else copy_containers(child, leaves, f"{prefix}{name}.")
    return bare


def state_of(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that a copy has too: `compile()` leaves one that runs the module it was called on."""
    return {key: value for key, value in module.__dict__.items() if key != "_compiled_call_impl"}


PLAIN_VALUES = (int, float, bool, str, type(None))
# What every module has of its own: two modules may share another empty dict, and fill it later.
REGISTERED = frozenset(vars(nn.Module()))
PLAIN_HOMES = ("torch.nn.modules.", "blurify.graph.hosts", "blurify.layers")
COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__new__")


def own_copy(module: nn.Module, memo: dict[int, Any]) -> Any:
    """Copy like `copy.deepcopy`, but faster: modules hold plain values and mostly empty registries."""
    kind: Any = type(module)
    if id(module) in memo or not is_copied_by_attributes(kind):
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = kind.__new__(kind)
    for key, value in state_of(module).items():
        if type(value) in PLAIN_VALUES:
            twin.__dict__[key] = value
        elif key == "_modules":
            twin.__dict__[key] = {
                name: None if child is None else own_copy(child, memo) for name, child in value.items()
            }
        elif key in REGISTERED and not value:
            twin.__dict__[key] = type(value)()
        else:
            twin.__dict__[key] = copy.deepcopy(value, memo)
    return twin


@cache
def is_copied_by_attributes(kind: Any) -> bool:
    """Return whether `copy.deepcopy` copies the attributes of such a module and does nothing else."""
    own = [getattr(kind, name, None) for name in COPYING]
    changed = [
        method for name, method in zip(COPYING, own, strict=True) if method is not getattr(nn.Module, name, None)
    ]
    # Layers of `torch.nn` complete what old pickles lack, and modules that blur tell how pickles name them.
    return all(home(method).startswith(PLAIN_HOMES) for method in changed) and "__slots__" not in vars(kind)
