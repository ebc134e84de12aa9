"""Prove a converted model, and count its arithmetic before and after."""

from __future__ import annotations

import torch
from torch import nn

from blurify.measure.cost import cost
from blurify.tracing.inputs import Inputs
from blurify.verifying.proving import verify
from blurify.verifying.verdict import Verdict
from blurify.zoo import architectures
from blurify.zoo.randomize_weights import randomize
from blurify.zoo.settings import Record


def given_inputs(name: str, model: nn.Module) -> tuple[torch.Tensor, ...] | None:
    """Explain why a model whose input is not one image was not proved.

    >>> given_inputs("timm:resnet18", model)
    """
    if architectures.task(name) in ("video", "optical_flow"):
        return architectures.inputs_of(name, model, architectures.own_shape(name, model)).args
    return None


def own_inputs(name: str, model: nn.Module, batch: int = 1) -> Inputs:
    """Return a batch of the sizes that the model is made for.

    >>> own_inputs("timm:resnet18", model).args[0].shape
    torch.Size([1, 3, 224, 224])
    """
    return architectures.inputs_of(name, model, architectures.own_shape(name, model), batch)


def priced(name: str, model: nn.Module, converted: nn.Module) -> Record:
    """Multiply-accumulates before and after, and for which input.

    >>> priced("timm:resnet18", model, antialias(model))["input_size"]
    [1, 3, 224, 224]
    """
    example = own_inputs(name, model).args
    before, after = cost(model, *example), cost(converted, *example)
    return {"macs": [before.macs, after.macs], "input_size": list(before.size)}


def prove(name: str, model: nn.Module, converted: nn.Module, pretrained: bool) -> Verdict:
    """Run the proofs, with weights that they can see through.

    >>> prove("timm:resnet18", model, antialias(model), pretrained=False).ok
    True

    Untrained weights are as they were afterwards.
    """
    inputs = own_inputs(name, model).args
    if pretrained:
        return verify(model, converted, inputs)
    state = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    randomize(model, own_inputs(name, model, batch=4))
    converted.load_state_dict(model.state_dict())
    verdict = verify(model, converted, inputs)
    for each in (model, converted):
        each.load_state_dict(state, strict=False)
    return verdict


def of_verdict(verdict: Verdict) -> Record:
    """Return the results of the proofs as plain values.

    >>> of_verdict(verdict)["proofs"]["ok"]
    True
    """
    return {
        "proofs": {
            "ok": verdict.ok,
            "identity_error": verdict.identity_error,
            "tolerance": verdict.tolerance,
            "shapes": len(verdict.shapes),
            "weights": verdict.weights.count,
            "modes": list(verdict.modes),
            "rows": {row.name: row.state for row in verdict.rows},
        }
    }
