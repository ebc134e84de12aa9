"""Weights that a proof can see through: untrained ones hide branches behind zeros and let deep signals vanish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blurify.tracing.inputs import Inputs


@torch.no_grad()
def randomize(model: nn.Module, inputs: Inputs) -> nn.Module:
    """Give what starts as a constant values that show whether it is applied in place, and let every signal survive.

    >>> randomize(model, inputs_of("timm:resnet18", model, (3, 224, 224), batch=4))

    The inputs, best of several images, give the batch-norms their statistics: where maps end in one position, a
    single image has no variance, and norms magnify its rounding.
    """
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1]).all()):
            low, high = _spread(key, parameter)
            parameter.uniform_(low, high, generator=generator)
    with following_norms(model, generator):
        model(*inputs.args)
    return model


def _spread(key: str, parameter: Tensor) -> tuple[float, float]:
    if key.endswith("bias"):
        return -0.2, 0.2
    if parameter.numel() > max(parameter.shape, default=1):
        # A head or an embedding of zeros.
        return -0.05, 0.05
    # A scale of a residual branch starts near 0, which would hide the branch; that of a norm starts at 1.
    return (0.7, 1.3) if float(parameter.flatten()[0]) == 1 else (0.1, 0.3)


@contextmanager
def following_norms(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let every batch-norm take statistics from what it is fed, disturbed: untrained ones let deep signals vanish.

    >>> with following_norms(model, torch.Generator().manual_seed(0)):
    ...     model(pictures)
    """

    def follow(module: nn.modules.batchnorm._BatchNorm, args: tuple[Tensor, ...]) -> None:
        x, mean, variance = args[0], module.running_mean, module.running_var
        if mean is None or variance is None:
            return
        spread = torch.rand(2, module.num_features, generator=generator).to(x) * 0.6 + 0.7
        axes = [0, *range(2, x.dim())]
        mean.copy_(x.mean(axes) * spread[0])
        variance.copy_((x.var(axes, unbiased=False) + 1e-3) * spread[1])

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(follow) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
