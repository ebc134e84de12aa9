"""Weights that are computed whenever a layer runs, and how a fitted one is expressed by what they are computed from.

- Weight norm (Salimans and Kingma, NeurIPS 2016, equation 2): `W = g v / |v|`. Any `W` is that, by `v = W`, `g = |W|`.
- Scaled weight standardisation (Brock et al., "Characterizing signal propagation to close the performance gap in
  unnormalized ResNets", ICLR 2021): `W = s g (v - mean v) / sqrt(var v + e)` for each output, with a constant `s`. Any
  `W` of mean 0 is that, by `v = W`, `g = sqrt(var W + e) / s`. So the fit is one among weights of mean 0.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from blurify.graph.module import TracedModule

SCALED = frozenset({"ScaledStdConv2d", "ScaledStdConv2dSame"})


@dataclass(frozen=True)
class Normed:
    """`W = g v / |v|`, the norm over all axes but `dim`; over all of them if it is -1."""

    g: Tensor
    v: Tensor
    dim: int
    centred: ClassVar[bool] = False

    def value(self) -> Tensor:
        """Return the weight, float64."""
        v = exact(self.v)
        return v * (exact(self.g) / torch.norm_except_dim(v, 2, self.dim))

    def express(self, weight: Tensor) -> None:
        """Take the weight for the direction and its norm for the length; of a weight of 0 the direction stays."""
        norm = torch.norm_except_dim(weight, 2, self.dim)
        self.v.copy_(torch.where(norm > 0, weight, exact(self.v)))
        self.g.copy_(norm.reshape(self.g.shape))


@dataclass(frozen=True)
class Scaled:
    """`W = s g (v - mean v) / sqrt(var v + e)`, of every output by itself."""

    g: Tensor
    v: Tensor
    s: float
    e: float
    # The mean of what it can be, for each output, is 0.
    centred: ClassVar[bool] = True

    def value(self) -> Tensor:
        """Return the weight, float64."""
        v = exact(self.v).flatten(1)
        made = self.s * (v - v.mean(1, keepdim=True)) / self._deviation(v)
        return (made * exact(self.g).reshape(-1, 1)).reshape(self.v.shape)

    def express(self, weight: Tensor) -> None:
        """Take the weight for what is standardised, and its deviation for the gain."""
        self.v.copy_(weight)
        self.g.copy_((self._deviation(weight.flatten(1)) / self.s).reshape(self.g.shape))

    def _deviation(self, rows: Tensor) -> Tensor:
        return (rows.var(1, correction=0, keepdim=True) + self.e).sqrt()


Making: TypeAlias = Normed | Scaled


def making(module: Any) -> Making | None:
    """How the module makes its weight, if a fitted one can be expressed; None too if it is a parameter as it is."""
    if is_scaled(module):
        return Scaled(module.gain, module.weight, module.scale, module.eps)
    for hook in module._forward_pre_hooks.values():
        if type(hook) is WeightNorm and hook.name == "weight":
            return Normed(module.weight_g, module.weight_v, hook.dim)
    chain = parametrizations(module)
    if chain is not None and len(chain) == 1 and type(chain[0]) is nn.utils.parametrizations._WeightNorm:
        return Normed(chain.original0, chain.original1, chain[0].dim)
    return None


def scaled(node: object, traced: TracedModule) -> Scaled | None:
    """Return the same of a conv of timm's that was traced into: its weight is the node.

    That is `batch_norm(v.reshape(1, O, -1), weight=(g * s).view(-1), training=True).reshape_as(v)`.
    """
    norm = standardising(node)
    product = None if norm is None else called(first(norm.kwargs.get("weight"), "view"), operator.mul)
    if norm is None or product is None:
        return None
    v, g = parameter_at(first(norm.args[0], "reshape"), traced), parameter_at(product.args[0], traced)
    s, e = product.args[1], norm.kwargs.get("eps")
    if v is None or g is None or not isinstance(s, float) or not isinstance(e, float) or g.numel() != len(v):
        return None
    return Scaled(g, v, s, e)


def standardising(node: object) -> fx.Node | None:
    """Return the node that takes mean and deviation off a weight, before it gets its shape again."""
    norm = called(first(node, "reshape_as"), F.batch_norm)
    rows = None if norm is None else called(norm.args[0], "reshape")
    if norm is None or rows is None or rows.args[1] != 1 or rows.args[3:] != (-1,):
        return None
    return norm if norm.kwargs.get("training") is True and norm.kwargs.get("bias") is None else None


def called(node: object, target: object) -> fx.Node | None:
    """Return the node if it calls that."""
    return node if isinstance(node, fx.Node) and node.target == target else None


def first(node: object, target: object) -> object:
    """Return the first argument of a call."""
    found = called(node, target)
    return None if found is None else found.args[0]


def parameter_at(node: object, traced: TracedModule) -> nn.Parameter | None:
    """Return the parameter that the node reads."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    path, _, name = str(node.target).rpartition(".")
    return traced.get_submodule(path)._parameters.get(name)


def is_spectral(module: nn.Module) -> bool:
    """Return whether the module's weight is divided by its largest singular value."""
    parts = [*(parametrizations(module) or ()), *module._forward_pre_hooks.values()]
    return any(isinstance(part, (SpectralNorm, nn.utils.parametrizations._SpectralNorm)) for part in parts)


def parametrizations(module: Any) -> Any:
    """Return the function and the tensors of a `torch.nn.utils.parametrize`d weight; None for other weights."""
    return module.parametrizations.weight if nn.utils.parametrize.is_parametrized(module, "weight") else None


def is_scaled(module: object) -> bool:
    """Return whether it is timm's conv with scaled weight standardisation, known by name: timm is not imported."""
    kind = type(module)
    return kind.__name__ in SCALED and kind.__module__.partition(".")[0] == "timm"


def exact(tensor: Tensor) -> Tensor:
    """Return the values as float64; Apple's GPUs have none, so theirs go to the CPU."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
