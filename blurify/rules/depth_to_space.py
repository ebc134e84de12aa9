"""Channels moved between positions: `PixelShuffle`, and the `view`, `permute`, `view` that it is written out as.

Neighbours then come from different channels, so that a grid of them shows: as after a transposed conv, a blur follows
on request, as in fastai's `PixelShuffle_ICNR(blur=True)`.
"""

from __future__ import annotations

from dataclasses import replace as replaced
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.graph.paths import name_of
from blurify.positions import REGROUPS, finest
from blurify.rules.base import Context, Rule
from blurify.rules.hand_pool import is_map
from blurify.rules.upsample import is_smoothed_after, replace
from blurify.sites import Kind, Reason, Site

SHUFFLES = frozenset({F.pixel_shuffle, torch.pixel_shuffle, torch.ops.aten.pixel_shuffle.default})
SHUFFLE = Signature(2, ("input", "upscale_factor"))


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a depth-to-space move; where nothing is known of shapes, any reshape, to be told by a plan."""
    if type(module) is nn.PixelShuffle:
        return _site(node, (module.upscale_factor,) * 2, context)
    if node.op == "call_function" and node.target in SHUFFLES:
        factor = bind(node, SHUFFLE)["upscale_factor"]
        return _site(node, (factor,) * 2, context) if are_known(factor) else _refused(Reason.DYNAMIC)
    if module is not None or name_of(node) not in REGROUPS:
        return None
    return _refused(Reason.UNKNOWN_SIZE) if context.positions is None else _of_reshape(node, context)


def _of_reshape(node: fx.Node, context: Context) -> Site | None:
    """Normalise a reshape that puts positions between those there were."""
    positions, source = context.positions or {}, node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not is_map(node, context):
        return None
    before, after = finest(positions.get(source.meta["path"], ())), finest(positions[node.meta["path"]])
    factors = tuple(int(before.get(axis, step) / step) for axis, step in sorted(after.items()))
    return _site(node, factors, context) if max(factors, default=1) > 1 else None


def _refused(reason: Reason) -> Site:
    return Site(Kind.UPSAMPLE, (1, 1), (1, 1), (0, 0), (1, 1), refusal=reason)


def _site(node: fx.Node, factors: tuple[int, ...], context: Context) -> Site:
    nothing, ones = (0,) * len(factors), (1,) * len(factors)
    smoothed = Reason.ALREADY_ANTIALIASED if is_smoothed_after(node, factors, context) else None
    return Site(Kind.UPSAMPLE, factors, factors, nothing, ones, refusal=smoothed)


def as_decided(site: Site, decided: Site) -> Site:
    """Return the move with the factor of each axis, which shapes told of a reshape."""
    return replaced(site, stride=decided.stride) if site.refusal is Reason.UNKNOWN_SIZE else site


RULE = Rule(recognise, replace, as_decided=as_decided)
