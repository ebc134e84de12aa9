"""One model on its way through a command: opened, planned, converted, priced and proved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from blurify import api, files, proofs
from blurify.cli import report
from blurify.cli.options import Request
from blurify.errors import ArgumentError
from blurify.planning import Plan
from blurify.tracing.inputs import input_size, random_batch


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one forward at one input size."""

    macs: int
    size: tuple[int, ...]


@dataclass(frozen=True)
class Session:
    """A model that was read and planned; `cost` is that of the model as read."""

    request: Request
    loaded: files.LoadedModel
    example: Tensor
    cost: Cost
    plan: Plan


def open_model(request: Request) -> Session:
    """Read the model that a command line names, try its input size, and plan its conversion.

    >>> open_model(request).plan.rewritten
    (...)
    """
    with report.stage("reading"):
        loaded = files.read_model(request.model, arch=request.arch, allow=request.allow, pretrained=request.pretrained)
        example = _example(loaded.model, request)
        price = _first_cost(loaded.model, example, request)
    with report.stage("tracing"):
        plan = api.plan(
            loaded.model,
            request.filt_size,
            pad_type=request.pad_type,
            stem=request.stem,
            patch_embed=request.patch_embed,
            upsample=request.upsample,
            include=request.include,
            exclude=request.exclude,
            example_inputs=(example,),
        )
    if not plan.decisions and loaded.form != "native":
        raise ArgumentError(
            f"{request.model} has no convolution or pooling that shrinks its maps, so there is nothing to antialias; "
            "give a convolutional network."
        )
    return Session(request, loaded, example, price, plan)


def nothing_to_do(session: Session) -> str:
    """Say why a plan that rewrites nothing does so.

    >>> nothing_to_do(session)
    'nothing to do: ResNet is already antialiased.'
    """
    return api.no_effect(session.loaded.model, session.plan)


def convert(session: Session) -> nn.Module:
    """Do what the session's plan says, to a copy.

    >>> convert(session).meta["blurify"] == session.plan
    True
    """
    return session.plan.apply(session.loaded.model)


def verify(session: Session, converted: nn.Module) -> proofs.Verdict:
    """Run the proofs at the session's input size.

    >>> verify(session, converted).ok
    True
    """
    return proofs.verify(session.loaded.model, converted, example_inputs=(session.example,))


def cost(model: nn.Module, example: Tensor) -> Cost:
    """Count what one forward costs in eval mode, on shapes alone where the model lets us.

    >>> cost(resnet18, torch.zeros(1, 3, 224, 224)).macs
    1814073344
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        try:
            return _count(model, example, FakeTensorMode(allow_non_fake_inputs=True))
        except Exception:  # a model that looks at values (detection, say) cannot run without them
            return _count(model, example, None)
    finally:
        for module, training in modes.items():
            module.training = training


def _count(model: nn.Module, example: Tensor, fake: FakeTensorMode | None) -> Cost:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        if fake is None:
            model(example)
        else:
            with fake:
                model(fake.from_tensor(example))
    return Cost(counter.get_total_flops() // 2, tuple(example.shape[1:]))


def _first_cost(model: nn.Module, example: Tensor, request: Request) -> Cost:
    """Price the model as read, which is also the test that it takes an input of this size."""
    try:
        return cost(model, example)
    except Exception as error:
        size = ",".join(str(number) for number in example.shape[1:])
        fact = " ".join(str(error).split()) or type(error).__name__
        hint = "give the size it takes" if request.input_size else "name the size it takes"
        raise ArgumentError(
            f"{request.model} does not accept one input of size {size}: {fact.rstrip('.')}; "
            f"{hint} with --input-size, such as 3,224,224."
        ) from error


def _example(model: nn.Module, request: Request) -> Tensor:
    like = next((value for value in model.parameters() if value.is_floating_point()), torch.empty(0))
    return random_batch((1, *(request.input_size or input_size(model))), like)
