"""How far a network's maps are from moving with its image, at every site and under every shift of a stride's period.

A map `F` is shift-equivariant where both sides of `Shift(F(X)) = F(Shift(X))` are equal (Zhang, "Making Convolutional
Networks Shift-Invariant Again", ICML 2019, equation 2). Here, as there (section 4, "internal feature distance"), shifts
are circular and the sides are compared by cosine distance, `1 - <a, b> / (|a| |b|)` over a whole map.

Two things other than aliasing would spoil the equation, and are kept out of it. Borders: the network is shown a window
of the image repeated without end, and of its maps one period in the middle is compared. Fractions: a map of which
one position stands for `s` pixels moves by `shift / s` positions, and between whole ones it is read by trigonometric
interpolation, which is exact for what was band-limited before it was subsampled (the sampling theorem).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import pi
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.errors import ArgumentError
from blurify.graph.module import TracedModule
from blurify.measure.strides import Pair, cumulative_strides
from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import evaluating
from blurify.tracing.shapes import output_shapes, placeholder_values
from blurify.verifying.outputs import tensors_in
from blurify.verifying.shapes import subsampling_paths
from blurify.verifying.twins import one_tap, with_plan

OUTPUT = "output"
SHIFTS = 8


@dataclass(frozen=True)
class Deviation:
    """How far one map is from moving with the image.

    `stride` is how many pixels one of its positions stands for, downwards and to the right; `shifts` are the pixels
    that the image was moved by along each axis, the period's both ends among them. `distance` is float64
    `[N, 2, down, right]`, before and after: 0 is equivariant. At the ends aliasing has no part: what is seen at the far
    one is what still comes from the borders.
    """

    stride: Pair
    shifts: tuple[tuple[int, ...], tuple[int, ...]]
    distance: Tensor


def shift_deviation(
    converted: nn.Module, pictures: Tensor, *, size: Pair | None = None, shifts: int = SHIFTS, batch_size: int = 16
) -> dict[str, Deviation]:
    """Return every rewritten site's deviation from shift-equivariance, before and after, and that of the output.

    >>> import blurify, torchvision
    >>> smooth = blurify.antialias(torchvision.models.resnet18())
    >>> found = shift_deviation(smooth, torch.rand(1, 3, 32, 32), shifts=2)
    >>> found["layer2.0.conv1"].stride, found["layer2.0.conv1"].shifts[0], found["layer2.0.conv1"].distance.shape
    ((8, 8), (0, 5, 8), torch.Size([1, 2, 3, 3]))

    Before is the converted network with filters of one tap, which computes what the original does. A site's map is that
    after its subsampling, in both. Of the output, the entry `output`, the first tensor counts.

    Args:
        converted: what `blurify.antialias` returned, a network of `[N, C, H, W]`.
        pictures: `[N, C, H, W]`, each one period of what the network is shown, of a size that its strides divide.
        size: height and width of the window that the network is shown; twice the images' by default. What is shown
            beside the middle period keeps the borders away from it.
        shifts: how many steps a stride's period is cut into at most. Those of a longer one are spread over it, every
            second odd: under even shifts the first subsampling by 2 is equivariant, whatever it folds.
        batch_size: how many shifted images the network is given at a time.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
        ArgumentError: there are no images, they have another rank or a size that the strides do not divide, `size` is
            too small, or `shifts` is below 1.
    """
    converted, plan = with_plan(converted)
    if pictures.dim() != 4 or len(pictures) == 0:
        raise ArgumentError(f"pictures must be of shape [N, C, H, W], one at least; got {tuple(pictures.shape)}.")
    if shifts < 1:
        raise ArgumentError(f"shifts must be at least 1, got {shifts}.")
    period = (pictures.shape[2], pictures.shape[3])
    window = size or (2 * period[0], 2 * period[1])
    columns = []
    for network in (one_tap(converted, plan), converted):
        places = subsampling_paths(network.eval_graph, plan)
        strides = site_strides(network, _repeated(pictures[:1], window), places)
        _check_period(period, strides[OUTPUT])
        grids = {name: (_spread(down, shifts), _spread(right, shifts)) for name, (down, right) in strides.items()}
        walk = Walk(network, places, strides, grids, window, batch_size)
        with evaluating(network):
            rows = [walk.distances(picture) for picture in pictures]
        columns.append({name: torch.stack([row[name] for row in rows]) for name in grids})
    joined = {name: torch.stack([column[name] for column in columns], dim=1) for name in grids}
    return {name: Deviation(strides[name], grids[name], distance) for name, distance in joined.items()}


def _check_period(period: Pair, stride: Pair) -> None:
    if period[0] % stride[0] or period[1] % stride[1]:
        raise ArgumentError(
            f"pictures of {period[0]} x {period[1]} are no whole number of the network's strides, which are "
            f"{stride[0]} x {stride[1]} in all; crop them to a multiple of that."
        )


def _repeated(pictures: Tensor, window: Pair) -> Tensor:
    down, right = (
        torch.arange(size, device=pictures.device) % period
        for size, period in zip(window, pictures.shape[-2:], strict=True)
    )
    return pictures[..., down[:, None], right]


def _spread(period: int, most: int) -> tuple[int, ...]:
    if period <= most:
        return tuple(range(period + 1))
    # Among shifts that are all even, one would not see what the first subsampling does.
    return (*(step * period // most | step % 2 for step in range(most)), period)


@dataclass(frozen=True)
class Walk:
    """One network, shown an image at rest and under every shift that one of its maps asks for."""

    network: TracedModule
    places: Mapping[str, str]
    strides: Mapping[str, Pair]
    grids: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    window: Pair
    batch_size: int

    def distances(self, picture: Tensor) -> dict[str, Tensor]:
        """Return one image's distance at every place, `[down, right]`."""
        rest = self._maps(picture[None])
        wanted = sorted({shift for grid in self.grids.values() for shift in product(*grid)})
        found: dict[tuple[str, Pair], float] = {}
        for start in range(0, len(wanted), self.batch_size):
            batch = wanted[start : start + self.batch_size]
            moved = self._maps(torch.stack([picture.roll(shift, (1, 2)) for shift in batch]))
            for index, shift in enumerate(batch):
                for name, (downs, rights) in self.grids.items():
                    if shift[0] in downs and shift[1] in rights:
                        expected = shifted(rest[name][0], shift, self.strides[name])
                        found[name, shift] = cosine_distance(expected, moved[name][index])
        return {
            name: torch.tensor([found[name, shift] for shift in product(*grid)], dtype=torch.float64).reshape(
                len(grid[0]), len(grid[1])
            )
            for name, grid in self.grids.items()
        }

    def _maps(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return one period of every place's map."""
        shown = _repeated(pictures, self.window)
        recorder = MapRecorder(self.network, set(self.places.values()))
        values = placeholder_values(self.network.eval_graph, Inputs((shown,)))
        recorder.run(*values, enable_io_processing=False)
        maps = {name: recorder.maps[self.places.get(name, OUTPUT)] for name in self.grids}
        period = (pictures.shape[2], pictures.shape[3])
        return {name: _middle(features, period, self.strides[name]) for name, features in maps.items()}


def _middle(features: Tensor, period: Pair, stride: Pair) -> Tensor:
    if features.dim() != 4:
        return features
    for axis, pixels, per in zip((2, 3), period, stride, strict=True):
        length = pixels // per
        beside = features.shape[axis] - length
        if beside < 0:
            raise ArgumentError(
                f"A map of {features.shape[axis]} positions does not hold a period of {length}; "
                "give a larger size, or smaller images."
            )
        features = features.narrow(axis, beside // 2, length)
    return features


def cosine_distance(first: Tensor, second: Tensor) -> float:
    """Return one less the cosine of the angle between two maps, 0 to 2; exactly 0 for equal ones.

    >>> cosine_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))
    1.0
    """
    directions = [x.double() / x.double().norm().clamp_min(torch.finfo(torch.float64).tiny) for x in (first, second)]
    # Of unit vectors half the squared distance is the same number, and loses no digits where they are close.
    return float((directions[0] - directions[1]).square().sum() / 2)


def shifted(features: Tensor, shift: Pair, stride: Pair) -> Tensor:
    """Move a map `[C, H, W]` circularly as an image of `stride` times its size that moves by `shift` pixels.

    >>> shifted(torch.tensor([[[1.0, 0.0, 0.0]]]), (0, 2), (2, 2)).tolist()
    [[[0.0, 1.0, 0.0]]]

    What is no map, such as a row of classes, stays.
    """
    if features.dim() != 3:
        return features
    down, right = (
        _mover(size, pixels, per).to(features)
        for size, pixels, per in zip(features.shape[1:], shift, stride, strict=True)
    )
    return down @ features @ right.T


@lru_cache(maxsize=256)
def _mover(size: int, pixels: int, stride: int) -> Tensor:
    """Return the matrix that moves `size` values circularly by `pixels / stride` positions, by their Fourier series."""
    unmoved = torch.eye(size, dtype=torch.float64)
    if pixels % stride == 0:
        return unmoved.roll(pixels // stride, 0)
    # The highest frequency of an even size has a real part only, as what is kept of both of its signs.
    phase = torch.exp(-2j * pi * torch.fft.rfftfreq(size, dtype=torch.float64) * (pixels / stride))
    moved: Tensor = torch.fft.irfft(torch.fft.rfft(unmoved, dim=0) * phase[:, None], n=size, dim=0)
    return moved


class MapRecorder(fx.Interpreter):
    """Runs the graph of `.eval()` and keeps the first tensor of the output and of the nodes at the given paths."""

    def __init__(self, module: TracedModule, paths: set[str]) -> None:
        super().__init__(module, garbage_collect_values=True, graph=module.eval_graph)
        self.paths = paths
        self.maps: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, and keep its value if it is wanted."""
        value = super().run_node(n)
        if n.op == "output" or n.meta["path"] in self.paths:
            first = next(tensors_in(value), None)
            if first is not None:
                # A layer after it may write in place.
                self.maps[OUTPUT if n.op == "output" else n.meta["path"]] = first.clone()
        return value


def network_stride(converted: nn.Module, pictures: Tensor) -> Pair:
    """How many pixels one position of the most subsampled site's map stands for, downwards and to the right.

    >>> import blurify, torchvision
    >>> network_stride(blurify.antialias(torchvision.models.resnet18()), torch.zeros(1, 3, 64, 64))
    (32, 32)

    Images of a multiple of this are what `shift_deviation` takes.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
    """
    converted, plan = with_plan(converted)
    return site_strides(converted, pictures, subsampling_paths(converted.eval_graph, plan))[OUTPUT]


def site_strides(network: TracedModule, picture: Tensor, places: Mapping[str, str]) -> dict[str, Pair]:
    """How many pixels one position of every place's map stands for; of the output's, the most of any of these."""
    shapes = output_shapes(network, Inputs((picture,)))
    strides = cumulative_strides(network.eval_graph, shapes)
    found = {site: strides[path] for site, path in places.items() if path in strides}
    downs, rights = zip(*(found or {"": (1, 1)}).values(), strict=True)
    return found | {OUTPUT: (max(downs), max(rights))}
