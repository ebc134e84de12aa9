"""Where a sum reads a layer, the layer can make up for what the sum's other part has lost.

Let the original compute `n(t) + s` of a layer's output `t`, with `n` affine for each channel (a batch-norm, or
nothing), and let the converted network have `z` where the original has `s`. With `t` for a target the sum would be off
by `s - z`; with `t + (s - z) / gain` it is the original's, where `gain` is what `n` multiplies a channel by.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from blurify.graph.module import TracedModule
from blurify.recovery.calls import LayerCall
from blurify.recovery.lockstep import Stepper
from blurify.recovery.norms import gain_of

SUMS = {operator.add, operator.iadd, torch.add, torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor, "add", "add_"}
# In evaluation mode these give what they are given.
IDLE = (nn.Identity, nn.modules.dropout._DropoutNd)
# A channel that the norm makes smaller than this share of the largest is left alone: it would have to be very loud.
QUIETEST = 0.01


@dataclass(frozen=True)
class Join:
    """The node that is added to a layer's output, the sum that adds it, and what scales that output before."""

    other: str
    sum: str
    gain: Tensor | None

    def missing(self, original: Tensor, converted: Tensor) -> Tensor:
        """Return the correction of the target `[N, C, ...]`, from the other part's values in both networks."""
        lost = original - converted
        if self.gain is None:
            return lost
        gain = self.gain.reshape(-1, *[1] * (lost.dim() - 2))
        loud = gain.abs() > QUIETEST * gain.abs().max()
        return torch.where(loud, lost / torch.where(loud, gain, torch.ones_like(gain)), torch.zeros_like(lost))


def ordered(groups: list[list[LayerCall]], stepper: Stepper) -> tuple[list[list[LayerCall]], dict[str, Join]]:
    """The groups in the order of their fits, and the sums to be mended, by the name of the node of the call that does.

    It is the graph's order, but that what a sum adds to a layer is fitted before the layer, which then makes up for it.
    """
    found = {call.node: join_of(stepper.by_name[call.node], stepper.module) for group in groups for call in group}
    joins = {name: join for name, join in found.items() if join is not None}
    result: list[list[LayerCall]] = []
    for group in groups:
        if group not in result:
            others = added_to(group[0], groups, joins, stepper) if len(group) == 1 else []
            for other in others:
                # What comes first has nothing to make up for yet.
                joins.pop(other[0].node, None)
            result += [*(other for other in others if other not in result), group]
    return result, joins


def added_to(
    call: LayerCall, groups: list[list[LayerCall]], joins: dict[str, Join], stepper: Stepper
) -> list[list[LayerCall]]:
    """Return the later groups that lead to the other part of the call's sum, which does not depend on the call."""
    join, numbers = joins.get(call.node), stepper.numbers
    if join is None or numbers[join.other] < numbers[call.node]:
        return []
    leading = stepper.leading_to(join.other)
    later = [group for group in groups if numbers[group[0].node] > numbers[call.node] and len(group) == 1]
    return [group for group in later if group[0].node in leading]


def join_of(node: fx.Node, traced: TracedModule) -> Join | None:
    """The sum that reads the node through no more than a batch-norm and what does nothing; None where there is none."""
    gain: Tensor | None = None
    while len(node.users) == 1:
        user = next(iter(node.users))
        if is_sum(user, node):
            (other,) = (source for source in user.all_input_nodes if source is not node)
            return Join(other.name, user.name, gain)
        module = traced.get_submodule(str(user.target)) if user.op == "call_module" else None
        if not isinstance(module, IDLE):
            found = gain_of(user, traced) if gain is None else None
            if found is None:
                return None
            gain = found
        node = user
    return None


def is_sum(user: fx.Node, node: fx.Node) -> bool:
    """Return whether `user` adds `node` and another node, and does nothing else."""
    plain = user.op in ("call_function", "call_method") and user.target in SUMS and not user.kwargs
    return plain and len(user.args) == 2 and len(user.all_input_nodes) == 2 and node in user.args
