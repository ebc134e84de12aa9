"""*Train* and *gradients*: a training pass of both models, from the same seed, gives the same.

With one-tap filters and every subsampling at its site, a converted model draws the random numbers that the original
draws, updates buffers as it does, and sends the same gradients to the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from blurify.errors import first_line
from blurify.graph.module import TracedModule
from blurify.graph.paths import function_name
from blurify.tracing.inputs import Inputs
from blurify.verifying.outputs import (
    Difference,
    Named,
    compare,
    keeping_buffers,
    named_tensors,
    next_draws,
    seeded,
    set_mode,
)
from blurify.verifying.verdict import Row

SEEDS = (1, 2)
# What the names of operators that draw random numbers have in them, but for dropouts.
DRAWING = "rand bernoulli normal multinomial poisson binomial uniform exponential cauchy geometric".split()
# Rounding switches a ReLU or the largest of a window here and there, which gradients show far more than outputs.
ALLOWED = {torch.float64: 1e-6, torch.float32: 5e-2, torch.float16: 0.5, torch.bfloat16: 1.0}


@dataclass(frozen=True)
class Trained:
    """Hold one training pass: outputs, buffers afterwards, gradients, and the state of the random generator."""

    outputs: Named
    buffers: Named
    gradients: Named
    draws: tuple[float, float, float]


def train(original: nn.Module, twin: nn.Module, inputs: Inputs, *, recorded: bool) -> list[Row]:
    """Return the rows of both proofs; gradients are those after `.eval()` where no training pass can be had.

    `recorded` tells whether the twin, or a part of it, is a graph: there a draw may have decided once and for all, as
    one more pass shows. In a model of its own class the author's forward decides, and dropouts decide nothing.
    """
    try:
        mine, inputs = first_pass(original, inputs)
    except Exception as error:  # whatever the model raises after .train()
        why = f"the original does not run on this input after .train(): {first_line(error)}"
        return [Row("train", "skipped", why), in_evaluation(original, twin, inputs)]
    try:
        theirs = one_pass(twin, inputs, SEEDS[0])
        again = second_pass(original, twin, inputs, mine) if recorded and may_decide(twin) else None
    except Exception as error:
        why = f"the original runs after .train(), and the converted model does not: {first_line(error)}"
        return [Row("train", "failed", why), Row("gradients", "failed", why)]
    return [trained_alike(mine, theirs, again, recorded), gradients(mine, theirs, "in training")]


def evaluate_only(original: nn.Module, twin: nn.Module, inputs: Inputs) -> list[Row]:
    """Return the rows for a model that was recorded after `.eval()` alone."""
    why = "the model was recorded after .eval() only, so .train() switches its layers alone"
    return [Row("train", "skipped", why), in_evaluation(original, twin, inputs)]


def in_evaluation(original: nn.Module, twin: nn.Module, inputs: Inputs) -> Row:
    """Return the row of the gradients after `.eval()`."""
    try:
        mine = one_pass(original, inputs, SEEDS[0], training=False)
    except Exception as error:
        return Row("gradients", "skipped", f"nothing can be sent back through the original: {first_line(error)}")
    try:
        return gradients(mine, one_pass(twin, inputs, SEEDS[0], training=False), "after .eval()")
    except Exception as error:
        return Row("gradients", "failed", f"nothing can be sent back through the converted model: {first_line(error)}")


def first_pass(original: nn.Module, inputs: Inputs) -> tuple[Trained, Inputs]:
    """Run the original on the inputs, or on two copies of them where a batch of one has no statistics."""
    try:
        return one_pass(original, inputs, SEEDS[0]), inputs
    except Exception:
        tensors = [leaf for leaf in tree_leaves((inputs.args, inputs.kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or any(tensor.dim() == 0 or tensor.shape[0] != 1 for tensor in tensors):
            raise
        twice = tree_map_only(Tensor, lambda t: torch.cat([t, t.flip(-1)]), (inputs.args, inputs.kwargs))
        return one_pass(original, Inputs(*twice), SEEDS[0]), Inputs(*twice)


def may_decide(twin: nn.Module) -> bool:
    """Return whether a graph in the twin draws random numbers otherwise than by dropouts."""
    graphs = (graph for module in twin.modules() if isinstance(module, TracedModule) for graph in module.graphs)
    names = (function_name(node.target) for graph in graphs for node in graph.nodes if node.op.startswith("call_"))
    return any(drawing in name for name in names for drawing in DRAWING)


def second_pass(original: nn.Module, twin: nn.Module, inputs: Inputs, mine: Trained) -> tuple[Trained, Trained] | None:
    """Run both from another seed, where the original draws random numbers at all."""
    with seeded(SEEDS[0], original):
        if mine.draws == next_draws():
            return None
    passes = [one_pass(model, inputs, SEEDS[1], backward=False) for model in (original, twin)]
    return passes[0], passes[1]


def one_pass(model: nn.Module, inputs: Inputs, seed: int, *, backward: bool = True, training: bool = True) -> Trained:
    """Run the model from a seed, in training unless told otherwise; its buffers are as before."""
    parameters = dict(model.named_parameters())
    with keeping_buffers(model), seeded(seed, model), torch.set_grad_enabled(backward):
        set_mode(model, training)
        own = inputs.copied()
        outputs = named_tensors(model(*own.args, **own.kwargs))
        draws = next_draws()
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        found = sent_back(outputs.values(), parameters) if backward else {}
    return Trained({name: tensor.detach() for name, tensor in outputs.items()}, buffers, found, draws)


def sent_back(outputs: Iterable[Tensor], parameters: Mapping[str, Tensor]) -> Named:
    """Return the gradients of a weighted sum of all outputs, for the parameters that get one."""
    generator = torch.Generator().manual_seed(3)
    total: Tensor | None = None
    for output in outputs:
        if output.requires_grad and (output.is_floating_point() or output.is_complex()):
            weights = torch.randn(output.shape, generator=generator).to(output.device)
            part = (output.abs() if output.is_complex() else output).float().mul(weights).mean()
            total = part if total is None else total + part.to(total.device)
    names = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if total is None or not names:
        return {}
    got = torch.autograd.grad(total, [parameters[name] for name in names], allow_unused=True)
    return {name: gradient for name, gradient in zip(names, got, strict=True) if gradient is not None}


def trained_alike(mine: Trained, theirs: Trained, again: tuple[Trained, Trained] | None, recorded: bool) -> Row:
    """Judge the outputs, the buffers and the random numbers of the passes."""
    outputs = compare(mine.outputs, theirs.outputs)
    shared = [name for name in mine.buffers if name in theirs.buffers]
    buffers = compare({name: mine.buffers[name] for name in shared}, {name: theirs.buffers[name] for name in shared})
    text = f"after .train() outputs differ by {outputs}, buffers {buffers.error:.1e}"
    if not buffers.ok:
        text += f" at {buffers.name}"
    if mine.draws != theirs.draws:
        return Row("train", "failed", f"{text}; the two do not draw the same random numbers")
    if again is None:
        drawn = "equal random draws" if recorded else "own random draws"
        return Row.of("train", outputs.ok and buffers.ok, f"{text}; {drawn}")
    other = compare(again[0].outputs, again[1].outputs)
    text += f"; from another seed by {other.error:.1e}"
    return Row.of("train", outputs.ok and buffers.ok and other.ok, text)


def gradients(mine: Trained, theirs: Trained, when: str) -> Row:
    """Judge which parameters get a gradient, and what it is."""
    expected, actual = mine.gradients, theirs.gradients
    lost, new = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if lost or new:
        what = f"{lost[0]} gets none any more" if lost else f"{new[0]} gets one now and got none before"
        more = f", and {len(lost) + len(new) - 1} others changed too" if len(lost) + len(new) > 1 else ""
        return Row("gradients", "failed", f"not the same parameters get one {when}: {what}{more}")
    if not expected:
        return Row("gradients", "ok", f"no parameter gets one {when}, in either model")
    found = apart(expected, actual)
    text = f"the same {len(expected)} parameters get one {when}, and they differ by {found}"
    return Row.of("gradients", found.ok, text + ("" if found.ok else f" at {found.name}"))


def apart(expected: Named, actual: Named) -> Difference:
    """Return the largest difference of the gradients of one parameter, in the mean over its values.

    A gradient that is zero but for rounding has no size of its own to be compared with.
    """
    norms = {name: float(torch.linalg.vector_norm(gradient)) for name, gradient in expected.items()}
    floor = 1e-2 * max(norms.values())
    differences = [
        Difference(
            float(torch.linalg.vector_norm(gradient - actual[name])) / (max(norms[name], floor) or 1.0),
            ALLOWED.get(gradient.dtype, 5e-2),
            name,
        )
        for name, gradient in expected.items()
    ]
    return max(differences, key=lambda each: each.part)
