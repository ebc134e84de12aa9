"""What one forward costs in multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from blurify.tracing.export import quietly
from blurify.tracing.modes import evaluating


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one forward at one input size."""

    macs: int
    size: tuple[int, ...]


def cost(model: nn.Module, *examples: Tensor) -> Cost:
    """Count what one forward costs in eval mode, on shapes alone where the model lets us.

    >>> cost(resnet18, torch.zeros(1, 3, 224, 224)).macs
    1814073344
    """
    with evaluating(model), _frozen(model):
        try:
            with quietly():
                return _count(model, examples, FakeTensorMode(allow_non_fake_inputs=True))
        except Exception:  # a model that looks at values (detection, say) cannot run without them
            return _count(model, examples, None)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient: the counter hooks into those that do, and fails on views of them."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _count(model: nn.Module, examples: Sequence[Tensor], fake: FakeTensorMode | None) -> Cost:
    counter = FlopCounterMode(display=False)
    with counter:
        if fake is None:
            model(*examples)
        else:
            with fake:
                model(*(fake.from_tensor(example) for example in examples))
    return Cost(counter.get_total_flops() // 2, tuple(examples[0].shape[1:]))
