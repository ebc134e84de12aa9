"""A module whose forward does what no graph can hold stays whole in the graph, where nothing in it is rewritten."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, verify
from blurify.errors import OmissionWarning, TraceError
from blurify.tracing import trace

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Scaled(torch.autograd.Function):
    """A product whose gradient is another one's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * 3


class Plain(nn.Module):
    """A linear layer over positions' means, beside which the subclasses do more."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.kept: list[Tensor] = []
        self.register_buffer("ready", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class NoGradients(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = self.fc(x)
        return x * gate


class Autocast(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x).float()


class Drops(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and torch.rand(1).item() < 0.5 else self.fc(x)


class DropsByPython(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and random.random() < 0.5 else self.fc(x)


class DropsByNumpy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and numpy.random.uniform() < 0.5 else self.fc(x)


class Custom(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return Scaled.apply(self.fc(x))  # type: ignore[no-any-return, no-untyped-call]


class Decides(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if self.ready == 0 else x


KINDS = (NoGradients, Autocast, Drops, DropsByPython, DropsByNumpy, Custom, Decides)


class Around(nn.Module):
    """A network that strides in functions, so that it becomes a graph, and has a `Plain` at its end."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        return self.inner(F.relu(self.b(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_module_that_no_graph_can_hold_stays_whole(kind: type[Plain]) -> None:
    torch.manual_seed(0)
    model = Around(kind())
    with warnings.catch_warnings():
        warnings.simplefilter("error", OmissionWarning)
        converted = antialias(model)
    assert converted.meta["blurify_form"] == "graph"
    assert isinstance(converted.inner, kind)
    assert not converted.meta["left_out"]
    verdict = verify(model, converted, X)
    assert verdict.ok, verdict
    assert [row.state for row in verdict.rows] == ["ok"] * 4


def test_what_a_whole_module_leaves_in_its_attributes_is_there() -> None:
    class Keeps(Plain):
        def forward(self, x: Tensor) -> Tensor:
            self.loss = x.square().mean()
            return self.fc(x)

    model = Around(Keeps())
    with warnings.catch_warnings():
        warnings.simplefilter("error", OmissionWarning)
        converted = antialias(model)
    converted(X).sum().backward()
    assert converted.inner.loss.requires_grad
    assert not hasattr(model.inner, "loss")


def test_a_module_with_a_site_is_not_whole() -> None:
    class Pools(Plain):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = F.max_pool2d(x, 2)
            return y.mean((2, 3))

    class Outer(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(F.relu(self.a(x)))  # type: ignore[no-any-return]

    with pytest.warns(OmissionWarning, match="no_grad"):
        converted = antialias(Outer(Pools()))
    assert len(converted.meta["blurify"].rewritten) == 1
    assert converted.meta["left_out"]


def test_a_context_around_modules_is_of_the_module_that_enters_it() -> None:
    class Nested(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Sequential(Plain(), nn.ReLU()), Plain())

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.layers(x)
            return self.fc(x)

    model = Around(Nested())
    with warnings.catch_warnings():
        warnings.simplefilter("error", OmissionWarning)
        converted = antialias(model)
    assert isinstance(converted.inner, Nested)
    assert verify(model, converted, X).ok


def test_a_graph_with_a_whole_module_is_pickled_as_its_model_and_plan() -> None:
    model = Around(Drops()).eval()
    converted = antialias(model)
    again = pickle.loads(pickle.dumps(converted))
    assert isinstance(again.inner, Drops)
    assert torch.equal(again(X), converted(X))
    assert torch.equal(copy.deepcopy(converted)(X), converted(X))


@pytest.mark.parametrize("kind", [Drops, DropsByPython, DropsByNumpy], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_what_chance_decides_is_told_however_it_fell_while_recording(kind: type[Plain], seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)
    traced = trace(Around(kind()))
    assert traced.meta["omitted_in"] == ("inner",)
    assert "random numbers" in traced.meta["omitted"][0]


class ByValue(Plain):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return self.fc(x)


class ByList(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(x) * weight for weight in x[0].tolist()]).sum(0)


class Packed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x[:, None], [1] * len(x), batch_first=True)
        return self.fc(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0][:, 0])


class OnlyInTraining(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * 2 if self.training and x.mean() > 0 else x)


class OnlyInEvaluation(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * 2 if not self.training and x.mean() > 0 else x)


class Modules(Around):
    """The same network whose sites are modules."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.a(x)))
        return self.inner(F.relu(self.b(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("outer", [Around, Modules], ids=["graph", "class"])
@pytest.mark.parametrize("kind", [ByValue, ByList, Packed, OnlyInTraining, OnlyInEvaluation], ids=lambda k: k.__name__)
def test_a_module_that_cannot_be_traced_stays_whole(kind: type[Plain], outer: type[Around]) -> None:
    model = outer(kind())
    converted = antialias(model)
    assert converted.meta["blurify_form"] == ("graph" if outer is Around else "class")
    assert converted.meta["front_end"] == "torch.fx"
    assert [decision.site for decision in converted.meta["blurify"].rewritten] == [
        "max_pool2d" if outer is Around else "pool"
    ]
    assert isinstance(converted.inner, kind)
    verdict = verify(model, converted, X)
    assert verdict.ok, verdict
    assert all(row.state == "ok" for row in verdict.rows)


class PoolsByValue(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2).mean((2, 3)) if x.mean() > 0 else x.mean((2, 3))


class StridesByValue(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) if x.mean() > 0 else x.mean((2, 3))


@pytest.mark.parametrize("kind", [PoolsByValue, StridesByValue], ids=lambda kind: kind.__name__)
def test_a_module_that_cannot_be_traced_and_may_have_a_site_is_not_hidden(kind: type[Plain]) -> None:
    class Outer(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(F.relu(self.a(x)))  # type: ignore[no-any-return]

    with pytest.raises(TraceError, match=r"'inner'.*x\.mean\(\) > 0"):
        antialias(Outer(kind()))


def test_hooks_that_forward_registers_are_a_part_of_it() -> None:
    class Collects(Modules):
        def forward(self, x: Tensor) -> Tensor:
            found: list[Tensor] = []
            hook = self.stage.register_forward_hook(lambda module, args, output: found.append(output))
            try:
                y = super().forward(x)
            finally:
                hook.remove()
            return y + found[0].mean()

    model = Collects(Plain())
    model.stage = nn.Sequential(model.b)
    model.b = model.stage
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = antialias(model)
    assert converted.meta["front_end"] == "torch.fx"
    verdict = verify(model, converted, X)
    assert verdict.ok, verdict


class Casts(nn.Module):
    """A network that casts in its own forward, around a strided conv, perhaps on a condition that fx cannot read."""

    def __init__(self, by_size: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.by_size = by_size

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=x.shape[1] > 4 if self.by_size else True):
            x = self.b(x)
        return F.max_pool2d(x.float(), 2)


def test_an_exported_context_is_copied_with_its_part_of_the_graph() -> None:
    model = Casts(by_size=True)
    converted = antialias(model, example_inputs=X)
    assert converted.meta["front_end"] == "torch.export"
    verdict = verify(model, converted, X)
    assert verdict.ok, verdict


def test_a_lost_autocast_fails_the_proof() -> None:
    model = Casts(by_size=False)
    with pytest.warns(OmissionWarning, match="autocast"):
        converted = antialias(model, form="graph", example_inputs=X)
    verdict = verify(model, converted, X)
    assert not verdict.ok
    assert verdict.identity_error > verdict.tolerance


class Counts(nn.Module):
    """Counts its calls in a buffer that it sets anew."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return x + self.steps


class Lowers(nn.Module):
    """A conv in bfloat16, which no graph holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            y = self.conv(x)
        return y.to(x.dtype)


def test_another_try_of_the_tracer_finds_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), Counts(), Lowers())
    traced = trace(model)
    assert traced.meta["omitted"] == ()
    assert type(model[2].steps) is Tensor
