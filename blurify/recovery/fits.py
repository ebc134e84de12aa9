"""FitSettings of a fit, and its result for each layer."""

from __future__ import annotations

from dataclasses import dataclass

from blurify.recovery.calls import Skip

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class LayerFit:
    """Hold the result for a layer: the error on held-out images with the carried and with the fitted weights.

    Errors are sums of squares relative to those of the targets about their mean. `ridge` is None where the carried
    weights stay, for the reason that `skip` tells. `unknowns` are the weights that one output has, `rows` the positions
    of `pictures` images that they were fitted to; `memory` the bytes that there must be, where they are too few.
    """

    layer: str
    before: float
    after: float
    ridge: float | None = None
    skip: Skip | None = None
    unknowns: int = 0
    rows: int = 0
    pictures: int = 0
    seconds: float = 0.0
    memory: int = 0

    @property
    def pictures_wanted(self) -> int:
        """How many images give as many equations as there are unknowns, when all positions are counted."""
        return -(-self.unknowns * self.pictures // max(self.rows, 1))


@dataclass(frozen=True)
class FitSettings:
    """How the fit is made; `memory` in bytes, `held_out` the share of images that choose the ridge."""

    ridges: tuple[float, ...] = RIDGES
    memory: int = 4 * 10**9
    held_out: float = 0.2
    batch_size: int = 16
    seed: int = 0

    def held_out_of(self, pictures: int) -> int:
        """How many images are held out."""
        return max(1, round(pictures * self.held_out))
