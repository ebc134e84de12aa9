"""Which modules act on every position alone, each as the function that it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules import activation, batchnorm, dropout, instancenorm

from blurify.tracing.leaves import exact_classes, statistics_classes

ACTIVATIONS = tuple(
    getattr(activation, name)
    for name in (
        "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish ReLU ReLU6 RReLU SELU "
        "Sigmoid SiLU Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
    ).split()
)
NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()))
PLAIN = (nn.Identity, nn.Dropout, nn.AlphaDropout, *ACTIVATIONS)
PER_CHANNEL = (
    batchnorm._BatchNorm,
    nn.PReLU,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    nn.ChannelShuffle,
    dropout._DropoutNd,
)
Equal = tuple[str, tuple[Any, ...]]
# Functions and their further arguments.
EQUALS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any], Equal]], ...] = (
    (PLAIN, lambda module: ("identity", ())),
    (PER_CHANNEL, lambda module: ("batch_norm", ())),
    ((nn.GroupNorm, instancenorm._InstanceNorm), lambda module: ("group_norm", ())),
    (NORMS, lambda module: ("layer_norm", (module.normalized_shape,))),
    ((nn.GLU,), lambda module: ("glu", (module.dim,))),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmin), lambda module: ("softmax", (module.dim,))),
    ((nn.Softmax2d,), lambda module: ("softmax", (-3,))),
    ((nn.Flatten,), lambda module: ("flatten", (module.start_dim, module.end_dim))),
    ((nn.Unflatten,), lambda module: ("unflatten", (module.dim, module.unflattened_size))),
)


def equal_call(module: nn.Module) -> Equal | None:
    """Return the function that a module is, with its further arguments; None if it is no position-wise one.

    >>> equal_call(nn.GLU(1))
    ('glu', (1,))
    """
    if isinstance(module, statistics_classes()):
        return "group_norm", ()
    home, kind = type(module).__module__, type(module).__name__
    if isinstance(module, exact_classes()):
        return ("identity" if home.endswith(".activations") else "batch_norm"), ()
    if home == "torchvision.ops.misc" and kind == "Permute":
        return "permute", (module.dims,)
    return next((equal(module) for kinds, equal in EQUALS if isinstance(module, kinds)), None)
