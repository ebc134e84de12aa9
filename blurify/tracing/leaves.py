"""Which modules and functions the tracer must not look into: what timm, torchvision and blurify say of their own.

Neither library is imported here unless the program has it already: a model cannot be made of classes not yet loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from blurify import layers

# Of torchvision's ops, those that are mere compositions of layers are better seen through.
SEEN_THROUGH = {
    "Conv2dNormActivation",
    "Conv3dNormActivation",
    "ConvNormActivation",
    "FeaturePyramidNetwork",
    "MLP",
    "MultiScaleRoIAlign",
    "SqueezeExcitation",
}
# timm's position-wise layers, which traced into would read shapes or fan out and so hide that they are position-wise.
TIMM_EXACT = (
    "BatchNormAct2d",
    "FrozenBatchNormAct2d",
    "SyncBatchNormAct",
    "SplitBatchNorm2d",
    "InplaceAbn",
    "LayerNorm2d",
    "LayerNorm2dFp32",
    "LayerNormAct2d",
    "LayerNormAct2dFp32",
    "RmsNorm2d",
    "RmsNorm2dFp32",
    "RmsNormAct2d",
    "RmsNormAct2dFp32",
    "SimpleNorm2d",
    "SimpleNorm2dFp32",
    "LayerScale2d",
    "DropPath",
)
TIMM_STATISTICS = ("GroupNorm", "GroupNorm1", "GroupNormAct", "GroupNorm1Act")
FOREIGN_BLURS = {
    "timm": {"BlurPool2d", "BlurPool2D"},
    "kornia": {"BlurPool2D", "MaxBlurPool2D", "EdgeAwareBlurPool2D"},
    "antialiased_cnns": {"BlurPool", "BlurPool1D"},
}

Classes = tuple[type[nn.Module], ...]


def is_foreign_blur(module: nn.Module) -> bool:
    """Return whether the module is a blur layer of another library, told by name so that none need be installed."""
    kind = type(module)
    return kind.__name__ in FOREIGN_BLURS.get(kind.__module__.split(".")[0], ())


def strided_leaves(model: nn.Module) -> set[type[nn.Module]]:
    """Classes that timm keeps whole although they hold strided modules, which then nobody could see."""
    if "timm.layers" not in sys.modules:
        return set()
    whole = tuple(sys.modules["timm.layers"].get_notrace_modules())
    leaves = [module for module in model.modules() if isinstance(module, whole)]
    return {type(leaf) for leaf in leaves if any(map(is_strided, list(leaf.modules())[1:]))}


def is_strided(module: nn.Module) -> bool:
    """Return whether the module has a stride above 1 among its attributes."""
    stride = getattr(module, "stride", 1)
    strides = stride if isinstance(stride, (tuple, list)) else (stride,)
    return any(isinstance(s, int) and s > 1 for s in strides)


def kept_whole(model: nn.Module, path: str) -> set[str]:
    """Return the paths of what to keep whole where the module at `path` cannot be traced: it, and others of its class.

    Nothing is, where there may be a site to rewrite.
    """
    module = model.get_submodule(path)
    if not path or may_stride(module):
        return set()
    kind = type(module)
    alike = {} if kind.__module__.startswith("torch.") else dict(model.named_modules())
    return {path} | {other for other, each in alike.items() if other and type(each) is kind and not may_stride(each)}


def may_stride(module: nn.Module) -> bool:
    """Return whether something in a module has a stride, or calls functions that may have one."""
    kinds: set[Any] = {type(each) for each in module.modules()}
    return any(map(calls_strided, kinds)) or any(map(is_strided, module.modules()))


# What functions that reduce resolution are called, for the most part.
STRIDING = ("conv1d", "conv2d", "conv3d", "max_pool", "avg_pool", "lp_pool", "adaptive_", "interpolate", "unfold")


@lru_cache(maxsize=1024)
def calls_strided(kind: Any) -> bool:
    """Return whether a class's own code names a function that may reduce resolution."""
    classes = [each for each in kind.__mro__ if not each.__module__.startswith("torch.") and each is not object]
    codes = [getattr(value, "__code__", None) for each in classes for value in vars(each).values()]
    names = (name for code in codes if code is not None for name in code.co_names)
    return any(name.startswith(STRIDING) for name in names)


def leaf_classes() -> Classes:
    """Classes whose instances, subclasses included, stay one node."""
    classes: Classes = (*_modules_of(layers), torch.jit.ScriptModule)
    if "timm.layers" in sys.modules:
        classes += tuple(sys.modules["timm.layers"].get_notrace_modules())
        classes += _timm_layers(TIMM_EXACT + TIMM_STATISTICS) + _timm_activations()
    if "torchvision.ops" in sys.modules:
        ops = _modules_of(sys.modules["torchvision.ops"])
        classes += tuple(kind for kind in ops if kind.__name__ not in SEEN_THROUGH)
    return classes


def leaf_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that become one node."""
    functions: tuple[Callable[..., Any], ...] = ()
    if "timm.layers" in sys.modules:
        functions += tuple(sys.modules["timm.layers"].get_notrace_functions())
    if "torchvision.ops" in sys.modules:
        ops = vars(sys.modules["torchvision.ops"]).values()
        functions += tuple(v for v in ops if callable(v) and not isinstance(v, type))
    return functions


def exact_classes() -> Classes:
    """timm's and torchvision's classes that act on every position alone."""
    return _exact_classes("timm.layers" in sys.modules, "torchvision.ops" in sys.modules)


def statistics_classes() -> Classes:
    """timm's classes that act on every position by statistics over all."""
    return _timm_layers(TIMM_STATISTICS) if "timm.layers" in sys.modules else ()


def _timm_layers(names: tuple[str, ...]) -> Classes:
    timm_layers = sys.modules["timm.layers"]
    return tuple(getattr(timm_layers, name) for name in names if hasattr(timm_layers, name))


def _modules_of(namespace: Any) -> Classes:
    return tuple(v for v in vars(namespace).values() if isinstance(v, type) and issubclass(v, nn.Module))


@lru_cache
def _exact_classes(timm: bool, torchvision: bool) -> Classes:
    classes: Classes = ()
    if timm:
        classes += (*_timm_layers(TIMM_EXACT), *_timm_activations())
    if torchvision:
        ops = sys.modules["torchvision.ops"]
        classes += (ops.FrozenBatchNorm2d, ops.StochasticDepth)
    return classes


def _timm_activations() -> Classes:
    activations = sys.modules.get("timm.layers.activations")
    return () if activations is None else _modules_of(activations)
