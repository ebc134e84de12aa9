"""One op family per file, and the one ordered tuple of them."""

from __future__ import annotations

from torch import fx, nn

from blurify.rules import (
    adaptive_pool,
    avg_pool,
    blur,
    conv,
    deform_conv,
    depth_to_space,
    exported_slice,
    fractional_max_pool,
    hand_pool,
    lp_pool,
    max_pool,
    resize,
    sliced_pool,
    strided_slice,
    unfold,
    upsample,
)
from blurify.rules.base import Context, Replacement, Rule
from blurify.rules.downsampler import Downsampler
from blurify.sites import Site

__all__ = ["RULES", "Context", "Downsampler", "Replacement", "Rule", "recognise"]

# Blurs first: some of them are convs or pools themselves.
RULES: tuple[Rule, ...] = (
    blur.RULE,
    max_pool.RULE,
    fractional_max_pool.RULE,
    avg_pool.RULE,
    lp_pool.RULE,
    adaptive_pool.RULE,
    sliced_pool.RULE,
    hand_pool.RULE,
    conv.RULE,
    deform_conv.RULE,
    strided_slice.RULE,
    exported_slice.RULE,
    unfold.RULE,
    resize.RULE,
    upsample.RULE,
    depth_to_space.RULE,
)


def recognise(node: fx.Node, module: nn.Module | None, context: Context) -> tuple[Rule, Site] | None:
    """Return the first rule that recognises the node, with the site it sees."""
    for rule in RULES:
        site = rule.recognise(node, module, context)
        if site is not None:
            return rule, site
    return None
