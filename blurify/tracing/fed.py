"""Record the inputs of every submodule in one run of the whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import evaluating


class Fed:
    """The arguments of each submodule's first call in one run of `model` after `.eval()`, by path, in order of calls.

    `error` is what stopped the run, if anything did; what was called before is known all the same.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.calls: dict[str, Inputs] = {}
        self.error: Exception | None = None
        paths = [(path, module) for path, module in model.named_modules() if path]
        hooks = [self._hook(path, module) for path, module in paths if not isinstance(module, torch.jit.ScriptModule)]
        try:
            with evaluating(model):
                own = inputs.copied()
                model(*own.args, **own.kwargs)
        except Exception as error:
            self.error = error
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, path: str, module: nn.Module) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in self.calls:
                self.calls[path] = Inputs(*tree_map_only(Tensor, torch.detach, (args, kwargs)))

        return module.register_forward_pre_hook(note, with_kwargs=True)

    def first(self, kind: type[nn.Module], model: nn.Module) -> str:
        """Return the path of the first module of this class that was called; empty if none was."""
        return next((path for path in self.calls if isinstance(model.get_submodule(path), kind)), "")
