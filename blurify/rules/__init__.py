"""One op family per file, and the one ordered tuple of them."""

from __future__ import annotations

from torch import fx, nn

from blurify.rules import avg_pool, blur, conv, max_pool
from blurify.rules.base import Parts, Rule, set_module
from blurify.sites import Site

__all__ = ["RULES", "Parts", "Rule", "recognise", "set_module"]

# Blurs first: some of them are convs or pools themselves.
RULES: tuple[Rule, ...] = (blur.RULE, max_pool.RULE, avg_pool.RULE, conv.RULE)


def recognise(node: fx.Node, module: nn.Module | None, root: nn.Module) -> tuple[Rule, Site] | None:
    """The first rule that recognises the node of `root`'s graph, with the site it sees."""
    for rule in RULES:
        site = rule.recognise(node, module, root)
        if site is not None:
            return rule, site
    return None
