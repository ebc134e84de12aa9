"""Where a network still aliases: how much of a map's energy is folded back when a site subsamples it.

Subsampling by `s` keeps frequencies up to `1 / (2 s)` cycles a position, the new Nyquist limit, and folds all higher
ones onto lower ones, where nothing tells them from what was there (Zhang, "Making Convolutional Networks
Shift-Invariant Again", ICML 2019, section 3.1; Oppenheim and Schafer, "Discrete-Time Signal Processing", section 4.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.errors import ArgumentError
from blurify.filters import binomial_taps, mixed_taps
from blurify.graph_module import TracedModule
from blurify.layers import AVG_BLUR_POOLS, BLUR_POOLS, MAX_BLUR_POOLS, SAME_BLUR_POOLS, Blur
from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import evaluating
from blurify.tracing.shapes import placeholder_values
from blurify.verifying.twins import one_tap, with_plan

AVERAGES = tuple(AVG_BLUR_POOLS.values())
WITH_MAXIMA = tuple(MAX_BLUR_POOLS.values())
KNOWN = (*BLUR_POOLS.values(), *SAME_BLUR_POOLS.values(), *AVERAGES)


def folded_energy(converted: nn.Module, pictures: Tensor, batch_size: int = 8) -> dict[str, Tensor]:
    """Each picture's share of energy that every site folds back, before and after: site to `[N, 2]` float64.

    >>> import blurify, torchvision
    >>> smooth = blurify.antialias(torchvision.models.resnet18())
    >>> folded_energy(smooth, torch.rand(2, 3, 64, 64))["maxpool"].shape
    torch.Size([2, 2])

    The share is that of a map's energy beside its mean, over all channels: what lies above the new Nyquist limit on any
    axis, to all that the site's filter lets pass. The first column is of the original network (the converted one with
    filters of one tap, which computes the same), the second of the converted. `estimate` makes percentages of them.

    Args:
        converted: what `blurify.antialias` returned.
        pictures: `[N, C, H, W]`, as the network takes them.
        batch_size: how many pictures the network is given at a time.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
        ArgumentError: there are no pictures.
    """
    converted, plan = with_plan(converted)
    if len(pictures) == 0:
        raise ArgumentError("there are no pictures to measure on.")
    columns = [_shares(network, pictures, batch_size) for network in (one_tap(converted, plan), converted)]
    return {site: torch.stack([column[site] for column in columns], dim=1) for site in columns[0]}


def _shares(network: TracedModule, pictures: Tensor, batch_size: int) -> dict[str, Tensor]:
    batches: list[dict[str, Tensor]] = []
    with evaluating(network):
        for batch in torch.split(pictures, batch_size):
            recorder = FoldingRecorder(network, network.eval_graph)
            values = placeholder_values(network.eval_graph, Inputs((batch,)))
            recorder.run(*values, enable_io_processing=False)
            batches.append(recorder.shares)
    return {site: torch.cat([batch[site] for batch in batches]) for site in batches[0]}


class FoldingRecorder(fx.Interpreter):
    """Runs a graph and keeps, of every site's map before it is subsampled, the share that is folded back."""

    def __init__(self, module: fx.GraphModule, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.shares: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, after looking at what it is fed if it blurs."""
        layer: Any = self.fetch_attr(str(n.target)) if "blurs" in n.meta and n.op == "call_module" else None
        if isinstance(layer, (*KNOWN, *WITH_MAXIMA)):
            (x,) = self.fetch_args_kwargs_from_env(n)[0][:1]
            if isinstance(layer, WITH_MAXIMA):
                x, layer = layer.max_pool(x), layer.blur_pool
            share = folded_share(x, layer)
            self.shares.update(dict.fromkeys(n.meta["blurs"], share))
        return super().run_node(n)


def folded_share(x: Tensor, layer: Blur) -> Tensor:
    """The share of energy that subsampling after the layer's filter folds back, of each map: `[N]` float64."""
    axes = tuple(range(2, x.dim()))
    power = torch.fft.fftn(x.double(), dim=axes).abs().square()
    kept = torch.ones_like(power[:1, :1], dtype=torch.bool)
    power = power * response(layer, x.shape[2:]).to(x.device).square()
    for axis, stride in zip(axes, layer.stride, strict=True):
        shape = [-1 if other == axis else 1 for other in range(x.dim())]
        frequencies = torch.fft.fftfreq(x.shape[axis], dtype=torch.float64, device=x.device).abs()
        # To rounding: a frequency right at the limit is kept.
        kept = kept & (frequencies <= 0.5 / stride + 1e-12).view(shape)
    # The mean of a map is not in danger, and would hide what is.
    power.flatten(2)[..., 0] = 0
    everything = power.flatten(1).sum(1)
    above = (power * ~kept).flatten(1).sum(1)
    return torch.where(everything > 0, above / everything.clamp_min(torch.finfo(torch.float64).tiny), 0.0).cpu()


def response(layer: Blur, sizes: torch.Size) -> Tensor:
    """The magnitude of what the layer's filter makes of each frequency of a map of these sizes: `[*sizes]`.

    Average pooling is an average before it is antialiased, and one that is wider than the filter stays.
    """
    if not isinstance(layer, AVERAGES):
        taps = [mixed_taps(count, layer.strength) for count in layer.filt_size]
        return transfer(taps, [(len(each) - 1) // 2 for each in taps], sizes).abs()
    window = [(1 / width,) * width for width in layer.kernel_size]
    average = transfer(window, [0] * layer.axes, sizes)
    taps = [binomial_taps(count) for count in layer.filt_size]
    beyond = [count - width for count, width in zip(layer.filt_size, layer.kernel_size, strict=True)]
    if not layer.divisor_override and min(beyond) >= 0:
        blurred = transfer(taps, [(over + 1) // 2 for over in beyond], sizes)
    else:
        blurred = average * transfer(taps, [(len(each) - 1) // 2 for each in taps], sizes)
    return torch.lerp(average, blurred, layer.strength).abs()


def transfer(taps: Sequence[Sequence[float]], origins: Sequence[int], sizes: torch.Size) -> Tensor:
    """What filters along the axes make of each frequency, each with its tap number `origin` on the position itself."""
    found = torch.ones((), dtype=torch.complex128)
    for along, origin, size in zip(taps, origins, sizes, strict=True):
        turns = 2 * pi * torch.fft.fftfreq(size, dtype=torch.float64)[:, None] * (torch.arange(len(along)) - origin)
        values = torch.tensor(along, dtype=torch.float64)
        found = found[..., None] * torch.polar(values.expand_as(turns), turns).sum(1)
    return found
