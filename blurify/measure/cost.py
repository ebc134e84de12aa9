"""Cost of a network: arithmetic, parameters, memory of its maps, time."""

from __future__ import annotations

import statistics
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from blurify.tracing.export import quietly
from blurify.tracing.modes import evaluating


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one forward at one input size, bytes of the maps at its peak, and parameters."""

    macs: int
    size: tuple[int, ...]
    activations: int = 0
    parameters: int = 0


@runtime_checkable
class CountsItself(Protocol):
    """A module whose arithmetic no operator of PyTorch does, and that counts it and its weights."""

    def own_cost(self, example: Tensor) -> tuple[int, int]:
        """Return the multiply-accumulates of a batch, and the number of weights."""


def cost(model: nn.Module, *examples: Tensor) -> Cost:
    """Count what one forward costs in eval mode, on shapes alone where the model lets us.

    >>> import torchvision
    >>> cost(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224)).macs
    1814073344

    `activations` are the most bytes that the input, the maps and whatever else the forward makes take at one time. They
    are counted of the plain formulation without gradients; batches that go through in parts (`blurify.optimizing`) take
    less.

    Args:
        model: any; its mode and random state are left as found.
        examples: its inputs, the first of them a batch whose size is the one that is said.
    """
    if isinstance(model, CountsItself):
        macs, weights = model.own_cost(examples[0])
        return Cost(macs, tuple(examples[0].shape[1:]), parameters=weights)
    with evaluating(model), _frozen(model), _stored(model):
        try:
            with quietly():
                return _count(model, examples, FakeTensorMode(allow_non_fake_inputs=True))
        except Exception:  # a model that looks at values (detection, say) cannot run without them
            return _count(model, examples, None)


@contextmanager
def _stored(model: nn.Module) -> Iterator[None]:
    """Keep the values of buffers: a program that was exported in training counts its batches in every mode."""
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in values:
            if not buffer.is_meta and not torch.equal(buffer, value):
                buffer.data.copy_(value)


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
    counter, memory = FlopCounterMode(display=False), PeakMemory()
    with counter, fake or nullcontext(), memory:
        given = [example if fake is None else fake.from_tensor(example) for example in examples]
        for example in given:
            memory.meet(example)
        model(*given)
    own = {id(parameter): parameter.numel() for parameter in model.parameters()}
    return Cost(counter.get_total_flops() // 2, tuple(examples[0].shape[1:]), memory.peak, sum(own.values()))


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operators make, and that are there at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.readers: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count what it gives."""
        result = func(*args, **(kwargs or {}))
        # A view of a weight is memory that was there, though a fake one has another address; one of a map keeps that.
        aliases = any(returned.alias_info is not None for returned in func._schema.returns)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (not aliases or key_of(leaf) in self.readers):
                self.meet(leaf)
        return result

    def meet(self, tensor: Tensor) -> None:
        """Count the tensor's memory, until the last tensor that has it is gone."""
        key, size = key_of(tensor), tensor.untyped_storage().nbytes()
        if key not in self.readers:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.readers[key] += 1
        weakref.finalize(tensor, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.readers[key] -= 1
        if self.readers[key] == 0:
            del self.readers[key]
            self.now -= size


def key_of(tensor: Tensor) -> int:
    """Identify the tensor's memory."""
    return int(tensor.untyped_storage()._cdata)


def milliseconds(models: Mapping[str, nn.Module], example: Tensor, rounds: int = 9) -> dict[str, float]:
    """Median milliseconds of one forward of every model, all of them once a round in turn, without gradients.

    >>> list(milliseconds({"a": nn.Identity(), "b": nn.Flatten()}, torch.zeros(1, 3, 8, 8), rounds=1))
    ['a', 'b']

    Ratios of one call are to be trusted; of two calls, the machine may have had other things to do.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
            model(example)
        for _ in range(rounds):
            for name, model in models.items():
                _wait(example.device)
                begin = time.perf_counter()
                model(example)
                _wait(example.device)
                seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).synchronize()
