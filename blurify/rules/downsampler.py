"""Layers that blur and subsample. All that is of the method, and not of an op family, is here.

A rule names the site, whose axes, stride and window the layer takes; the filter is that of the plan's decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from blurify.filters import Blurring
from blurify.layers import (
    ADAPTIVE_AVG_BLUR_POOLS,
    ADAPTIVE_MAX_BLUR_POOLS,
    AVG_BLUR_POOLS,
    BLUR_POOLS,
    LP_BLUR_POOLS,
    RESIZES,
    SAME_BLUR_POOLS,
    Blur,
    BlurAxes,
)
from blurify.sites import Site

L = TypeVar("L", bound=Blur)


@dataclass(frozen=True)
class Downsampler:
    """Make the layer that subsamples a site.

    `side` is where an even filter has its extra tap, if not on the right. With `plain_resize` a resize is blurred
    before it, whatever its mode.
    """

    blurring: Blurring
    side: str = ""
    plain_resize: bool = False

    def after_dense(self, site: Site) -> Blur:
        """Return the layer that subsamples what the dense op gives."""
        if site.same:
            same = SAME_BLUR_POOLS[site.axes]
            return self._sided(same(site.kernel_size, site.stride, site.dilation, **self.blurring))
        return self._sided(BLUR_POOLS[site.axes](None, stride=site.blur_stride, **self.blurring))

    def before_slice(self, site: Site) -> Blur:
        """Return the layer that only blurs, along the dimensions that a slice steps over."""
        return self._sided(BlurAxes(site.dims, rate=site.stride, **self.blurring))

    def after_growth(self, site: Site) -> Blur:
        """Return the layer that only blurs what an upsampling gives."""
        return self._sided(BLUR_POOLS[site.axes](None, stride=1, rate=site.stride, **self.blurring))

    def in_place_of_average(self, site: Site) -> Blur:
        """Return the layer that stands in the place of an average pool."""
        how = site.padding, site.ceil_mode, site.count_include_pad, site.divisor_override
        return self._sided(AVG_BLUR_POOLS[site.axes](site.kernel_size, site.stride, *how, **self.blurring))

    def in_place_of_power_average(self, site: Site, norm_type: float) -> Blur:
        """Return the layer that stands in the place of a power-average pool."""
        window = site.kernel_size, site.stride, site.ceil_mode
        return self._sided(LP_BLUR_POOLS[site.axes](norm_type, *window, **self.blurring))

    def in_place_of_adaptive_pool(self, site: Site) -> Blur:
        """Return the layer that stands in the place of an adaptive pool."""
        layers = ADAPTIVE_AVG_BLUR_POOLS if site.kind.traits.averages else ADAPTIVE_MAX_BLUR_POOLS
        return self._sided(layers[site.axes](site.output_size, rate=site.stride, **self.blurring))

    def in_place_of_resize(self, site: Site) -> Blur:
        """Return the layer that stands in the place of a resize."""
        layer = self._sided(RESIZES[site.axes](rate=site.stride, **self.blurring))
        layer.antialias = not self.plain_resize
        return layer

    def _sided(self, layer: L) -> L:
        if self.side:
            layer.put_extra_tap(self.side)
        return layer
