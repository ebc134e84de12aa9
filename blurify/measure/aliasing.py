"""Where a network still aliases: how much of a map's energy is folded back when a site subsamples it.

Subsampling by `s` keeps frequencies up to `1 / (2 s)` cycles a position, the new Nyquist limit, and folds all higher
ones onto lower ones, where nothing tells them from what was there (Zhang, "Making Convolutional Networks
Shift-Invariant Again", ICML 2019, section 3.1; Oppenheim and Schafer, "Discrete-Time Signal Processing", section 4.6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isinf, pi
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify import functional
from blurify.errors import ArgumentError
from blurify.filters import Filter
from blurify.graph.module import TracedModule
from blurify.layers import (
    ADAPTIVE_AVG_BLUR_POOLS,
    ADAPTIVE_MAX_BLUR_POOLS,
    AVG_BLUR_POOLS,
    BLUR_POOLS,
    LP_BLUR_POOLS,
    SAME_BLUR_POOLS,
    Blur,
)
from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import evaluating
from blurify.tracing.shapes import placeholder_values
from blurify.verifying.twins import one_tap, with_plan

AVERAGES = tuple(AVG_BLUR_POOLS.values())
PLAIN = (*BLUR_POOLS.values(), *SAME_BLUR_POOLS.values(), *AVERAGES)
POWERS = tuple(LP_BLUR_POOLS.values())
ADAPTIVE = (*ADAPTIVE_AVG_BLUR_POOLS.values(), *ADAPTIVE_MAX_BLUR_POOLS.values())
# A frequency right at the limit is kept, to rounding.
ROUNDING = 1e-12


def folded_energy(converted: nn.Module, pictures: Tensor, batch_size: int = 8) -> dict[str, Tensor]:
    """Each image's share of energy that every site folds back, before and after: site to `[N, 2]` float64.

    >>> import blurify, torchvision
    >>> smooth = blurify.antialias(torchvision.models.resnet18())
    >>> folded_energy(smooth, torch.rand(2, 3, 64, 64))["maxpool"].shape
    torch.Size([2, 2])

    The share is that of a map's energy beside its mean, over all channels: what lies above the new Nyquist limit on any
    axis, to all that the site's filter lets pass. The first column is of the original network (the converted one with
    filters of one tap, which computes the same), the second of the converted. `estimate` makes percentages of them.
    Every rewritten site that `.eval()` runs is there, whatever its layer; `not_run` names the others.

    Args:
        converted: what `blurify.antialias` returned.
        pictures: `[N, C, H, W]`, as the network takes them.
        batch_size: how many images the network is given at a time.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
        ArgumentError: there are no images.
    """
    converted, plan = with_plan(converted)
    if len(pictures) == 0:
        raise ArgumentError("There are no images to measure on.")
    columns = [_shares(network, pictures, batch_size) for network in (one_tap(converted, plan), converted)]
    return {site: torch.stack([column[site] for column in columns], dim=1) for site in columns[0]}


def not_run(converted: nn.Module, shares: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the rewritten sites of which `folded_energy` has no share, since `.eval()` does not run them.

    >>> not_run(smooth, folded_energy(smooth, torch.rand(2, 3, 64, 64)))
    ()
    """
    plan = with_plan(converted)[1]
    return tuple(decision.site for decision in plan.rewritten if decision.site not in shares)


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
        if "blurs" in n.meta:
            layer = self.fetch_attr(str(n.target))
            (x, *others), kwargs = self.fetch_args_kwargs_from_env(n)
            share = site_share(x, layer, lambda x: layer(x, *others, **kwargs))
            self.shares.update(dict.fromkeys(n.meta["blurs"], share))
        return super().run_node(n)


def site_share(x: Tensor, layer: Any, call: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what a layer that blurs folds back of its input: by its filter where that is known, else by trial."""
    if isinstance(layer, POWERS):
        return folded_share(*of_powers(x, layer))
    whole = whole_windows(x, layer) if isinstance(layer, ADAPTIVE) else []
    if whole:
        return folded_share(*of_windows(x, layer, whole))
    return folded_share(x, layer) if isinstance(layer, PLAIN) else tried_share(x, call)


def of_powers(x: Tensor, layer: Any) -> tuple[Tensor, Blur]:
    """Return the map that a power-average pool subsamples, and what filters that map."""
    options = {"filter": layer.filters, "pad_type": layer.pad_type, "rate": layer.rate}
    if not isinf(layer.norm_type):
        return x.pow(layer.norm_type), AVG_BLUR_POOLS[layer.axes](layer.kernel_size, layer.stride, **options)
    nothing, ones = [0] * layer.axes, [1] * layer.axes
    magnitudes = x.abs() if layer.norm_type > 0 else -x.abs()
    dense = functional.dense_max_pool(magnitudes, layer.kernel_size, layer.stride, nothing, ones, layer.ceil_mode)
    return dense, BLUR_POOLS[layer.axes](stride=layer.stride, **options)


def whole_windows(x: Tensor, layer: Any) -> list[int]:
    """Return the windows of an adaptive pool where it blurs: where each axis shrinks by a whole factor."""
    sizes = [wanted or size for wanted, size in zip(layer.output_size, x.shape[2:], strict=True)]
    pairs = list(zip(x.shape[2:], sizes, strict=True))
    whole = all(size > wanted and size % wanted == 0 for size, wanted in pairs)
    return [size // wanted for size, wanted in pairs] if whole else []


def of_windows(x: Tensor, layer: Any, window: list[int]) -> tuple[Tensor, Blur]:
    """Return the map that an adaptive pool of these windows subsamples, and what filters that map."""
    options = {"filter": layer.filters, "pad_type": layer.pad_type, "rate": layer.rate}
    if not layer.maximum:
        return x, AVG_BLUR_POOLS[layer.axes](window, window, **options)
    nothing, ones = [0] * layer.axes, [1] * layer.axes
    dense = functional.dense_max_pool(x, window, window, nothing, ones, False)
    return dense, BLUR_POOLS[layer.axes](stride=window, **options)


def tried_share(x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the share of what a layer gives that it makes of frequencies above the limits of its output's size.

    It holds for any layer that is linear, such as a resize, and takes no knowledge of its filter.
    """
    given = call(x)
    axes = tuple(range(2, x.dim()))
    limits = [0.5 * min(1.0, given.shape[axis] / x.shape[axis]) for axis in axes] if given.dim() == x.dim() else []
    if not x.is_floating_point() or min(limits, default=0.5) == 0.5:
        return torch.zeros(len(x), dtype=torch.float64)
    spectrum = torch.fft.fftn(x.double(), dim=axes)
    spectrum.flatten(2)[..., 0] = 0
    low = spectrum * below(x, limits)
    energies = [
        call(torch.fft.ifftn(part, dim=axes).real.to(x.dtype)).double().square().flatten(1).sum(1)
        for part in (low, spectrum - low)
    ]
    return share_of(energies[1], energies[0] + energies[1])


def below(x: Tensor, limits: Sequence[float]) -> Tensor:
    """Return which frequencies of a map are kept at these limits, in cycles a position of each axis."""
    kept = torch.ones_like(x[:1, :1], dtype=torch.bool)
    for axis, limit in enumerate(limits, 2):
        shape = [-1 if other == axis else 1 for other in range(x.dim())]
        frequencies = torch.fft.fftfreq(x.shape[axis], dtype=torch.float64, device=x.device).abs()
        kept = kept & (frequencies <= limit + ROUNDING).view(shape)
    return kept


def share_of(part: Tensor, everything: Tensor) -> Tensor:
    """Return the quotient, and 0 where there is nothing."""
    return torch.where(everything > 0, part / everything.clamp_min(torch.finfo(torch.float64).tiny), 0.0).cpu()


def folded_share(x: Tensor, layer: Blur) -> Tensor:
    """Return the share of energy that subsampling after the layer's filter folds back, of each map: `[N]` float64."""
    power = torch.fft.fftn(x.double(), dim=tuple(range(2, x.dim()))).abs().square()
    power = power * response(layer, x.shape[2:]).to(x.device).square()
    kept = below(x, [0.5 / stride for stride in layer.stride])
    # The mean of a map is not in danger, and would hide what is.
    power.flatten(2)[..., 0] = 0
    return share_of((power * ~kept).flatten(1).sum(1), power.flatten(1).sum(1))


def response(layer: Blur, sizes: torch.Size) -> Tensor:
    """Return the magnitude of what the layer's filter makes of each frequency of a map of these sizes: `[*sizes]`.

    Average pooling is an average before it is antialiased, and one that is wider than the filter stays.
    """
    if not isinstance(layer, AVERAGES):
        return filtered(layer, layer.filters, sizes).abs()
    window = [(1 / width,) * width for width in layer.kernel_size]
    average = transfer(window, [0] * layer.axes, sizes)
    whole = [replace(each, strength=1.0) for each in layer.filters]
    taps = [each.taps(rate) for each, rate in zip(whole, layer.rate, strict=True)]
    beyond = [len(each) - width for each, width in zip(taps, layer.kernel_size, strict=True)]
    if layer.averages and not layer.divisor_override and min(beyond) >= 0:
        blurred = transfer(taps, [(over + 1) // 2 for over in beyond], sizes)
    else:
        blurred = average * filtered(layer, whole, sizes)
    return torch.lerp(average, blurred, layer.strength).abs()


def filtered(layer: Blur, filters: Sequence[Filter], sizes: torch.Size) -> Tensor:
    """Return the response of a layer's filters, centred as the layer centres them, at each frequency."""
    if filters[0].is_ideal:
        found = torch.ones(())
        for each, rate, size in zip(filters, layer.rate, sizes, strict=True):
            values = each.response(torch.fft.fftfreq(size, dtype=torch.float64).tolist(), rate)
            found = found[..., None] * torch.tensor(values)
        return found
    taps = [each.taps(rate) for each, rate in zip(filters, layer.rate, strict=True)]
    return transfer(taps, [(len(each) - 1) // 2 for each in taps], sizes)


def transfer(taps: Sequence[Sequence[float]], origins: Sequence[int], sizes: torch.Size) -> Tensor:
    """Return the response of filters along the axes at each frequency; tap number `origin` lies on the position."""
    found = torch.ones((), dtype=torch.complex128)
    for along, origin, size in zip(taps, origins, sizes, strict=True):
        turns = 2 * pi * torch.fft.fftfreq(size, dtype=torch.float64)[:, None] * (torch.arange(len(along)) - origin)
        values = torch.tensor(along, dtype=torch.float64)
        found = found[..., None] * torch.polar(values.expand_as(turns), turns).sum(1)
    return found
