"""The trace is the model: its buffers are read when it runs, its questions are answered truly, its arguments keep
their names, and what a graph cannot hold is carried by the class or said.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from blurify import plan, verify
from blurify.errors import HooksWarning, OmissionWarning, TraceError
from blurify.graph.module import TracedModule
from blurify.tracing import trace
from blurify.tracing.inputs import as_inputs
from tests.conftest import as_graph as antialias

Forward = Callable[[Any, Tensor], Any]
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convs, the second strided, around what `between` does with the model and the map."""

    def __init__(self, between: Forward, **buffers: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.between = between
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.between(self, F.relu(self.a(x))))


def state(model: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Every parameter and buffer, with how often it was written to."""
    return {name: (t._version, t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}


def is_as_before(model: nn.Module, before: dict[str, tuple[int, Tensor]]) -> bool:
    after = state(model)
    return before.keys() == after.keys() and all(
        before[name][0] == version and torch.equal(before[name][1], value) for name, (version, value) in after.items()
    )


def ran(model: nn.Module, training: bool, times: int = 3, x: Tensor = X) -> tuple[list[Any], dict[str, Tensor]]:
    """What a copy gives when it runs so often, seeded, and its state after that."""
    twin = copy.deepcopy(model).train(training)
    torch.manual_seed(1)
    outputs = [twin(x.clone()) for _ in range(times)]
    return outputs, twin.state_dict()


def assert_records(model: nn.Module, training: bool) -> TracedModule:
    """The traced model gives what the model gives, run after run, and tracing left the model's tensors alone."""
    before = state(model)
    traced = trace(model)
    assert traced.meta["front_end"] == "torch.fx", traced.meta["refusals"]
    assert is_as_before(model, before)
    (mine, my_state), (theirs, their_state) = ran(model, training), ran(traced, training)
    for a, b in zip(tree_leaves(mine), tree_leaves(theirs), strict=True):
        assert torch.equal(a, b)
    for name, value in my_state.items():
        assert torch.equal(value, their_state[name]), name
    return traced


def affine(model: Any, x: Tensor) -> Tensor:
    scale = (model.weight * (model.var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
    return x * scale - model.mean[:, None, None]


def affine_by_functions(model: Any, x: Tensor) -> Tensor:
    scale = torch.mul(model.weight, torch.rsqrt(torch.add(model.var, 1e-5)))
    return torch.einsum("nchw,c->nchw", x, scale) - model.get_buffer("mean").view(-1, 1, 1)


def affine_from_a_dict(model: Any, x: Tensor) -> Tensor:
    weight, var, mean = (model._buffers[name].view(1, -1, 1, 1) for name in ("weight", "var", "mean"))
    return (x - mean) / var.sqrt() * weight


@pytest.mark.parametrize("between", [affine, affine_by_functions, affine_from_a_dict])
def test_what_is_computed_from_buffers_follows_them(between: Forward) -> None:
    buffers = {name: torch.rand(8) + 0.5 for name in ("weight", "var", "mean")}
    model = Net(between, **buffers)
    assert_records(model, training=False)
    converted = antialias(Net(between, **{name: torch.ones(8) for name in buffers}))
    converted.load_state_dict(model.state_dict())
    expected = antialias(model).eval()(X)
    assert torch.equal(converted.eval()(X), expected)
    assert not torch.equal(antialias(Net(between, **{name: torch.ones(8) for name in buffers}))(X), expected)


def averages(model: Any, x: Tensor) -> Tensor:
    if model.training:
        model.mean.mul_(0.9)
        model.mean.add_(0.1 * x.mean((0, 2, 3)).detach())
        model.steps += 1
    return x - model.mean.view(-1, 1, 1)


def averages_anew(model: Any, x: Tensor) -> Tensor:
    if model.training:
        model.mean = 0.9 * model.mean + 0.1 * x.detach().mean((0, 2, 3))
        model.steps = model.steps + 1
    return x - model.mean[None, :, None, None]


def averages_by_item(model: Any, x: Tensor) -> Tensor:
    model.mean[0] = x.detach().mean()
    model.mean[1:] *= 0.5
    torch.add(model.steps, 1, out=model.steps)
    return x + model.mean.sum()


def averages_by_copy(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        model.mean.copy_(torch.lerp(model.mean, x.mean((0, 2, 3)), 0.1))
        model.steps.data = model.steps.data + 1
    return x * model.mean.reshape(-1, 1, 1)


@pytest.mark.parametrize("between", [averages, averages_anew, averages_by_item, averages_by_copy])
@pytest.mark.parametrize("training", [False, True])
def test_updates_of_buffers_happen_in_each_run(between: Forward, training: bool) -> None:
    model = Net(between, mean=torch.full((8,), 10.0), steps=torch.zeros((), dtype=torch.long))
    assert_records(model, training)


def test_updates_of_other_tensors_and_of_parameters_happen_in_each_run() -> None:
    def between(model: Any, x: Tensor) -> Tensor:
        model.seen += 1
        model.b.weight.data = torch.renorm(model.b.weight.data, 2, 0, 0.1)
        return x * model.seen

    model = Net(between)
    model.seen = torch.zeros(())
    before = model.seen.clone()
    assert_records(model, training=False)
    assert torch.equal(model.seen, before)


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_nothing_of_the_callers_is_written_to(form: str) -> None:
    def between(model: Any, x: Tensor) -> Tensor:
        model.steps += 1
        model.seen += 1
        return x * model.steps * model.seen

    model = Net(between, steps=torch.zeros(()))
    model.seen = torch.zeros(())
    before = state(model)
    plan(model, example_inputs=X)
    converted = antialias(model, example_inputs=X, form=form)
    assert is_as_before(model, before)
    assert verify(model, converted, X).ok
    assert is_as_before(model, before)
    assert float(model.seen) == 0


def test_a_tensor_that_forward_fills_is_new_in_each_run() -> None:
    def between(model: Any, x: Tensor) -> Tensor:
        made = torch.zeros(2, 8, 32, 32)
        made[:, :, ::2] = x[:, :, ::2]
        made += x.mean()
        return made

    assert_records(Net(between), training=False)


def test_a_write_to_a_part_of_a_tensor_that_forward_made_is_left_to_the_next_front_end() -> None:
    def between(model: Any, x: Tensor) -> Tensor:
        made = torch.zeros(8, 1, 1)
        part = made[:4]
        part += x.mean()
        return x + made

    model = Net(between).eval()
    traced = trace(model)
    assert "writes to a part of a tensor" in traced.meta["refusals"][0]
    torch.testing.assert_close(traced(X.repeat(1, 1, 7, 7)), model(X.repeat(1, 1, 7, 7)))


QUESTIONS: dict[str, Forward] = {
    "isinstance": lambda model, x: x * 2 if isinstance(x, Tensor) else x * 3,
    "is_tensor": lambda model, x: x * 2 if torch.is_tensor(x) else x * 3,
    "jit.isinstance": lambda model, x: x * 2 if torch.jit.isinstance(x, Tensor) else x * 3,
    "isinstance of many": lambda model, x: x * 3 if isinstance(x, (list, tuple, dict)) else x * 2,
    "isinstance of chunks": lambda model, x: torch.cat(x.chunk(2, 1) if isinstance(x.chunk(2, 1), tuple) else [x], 1),
    "isinstance of a size": lambda model, x: x * 2 if isinstance(x.dim(), int) else x * 3,
    "hasattr": lambda model, x: x * 3 if hasattr(x, "tensors") else x * 2,
    "getattr": lambda model, x: x * getattr(x, "factor", 2),
    "scripting": lambda model, x: x * 3 if torch.jit.is_scripting() or torch.jit.is_tracing() else x * 2,
    "dim": lambda model, x: x[None] if x.dim() == 3 else x * 2,
    "ndim": lambda model, x: x * 2 if x.ndim in (4, 5) else x,
    "len": lambda model, x: x * len(x.shape),
    "channels": lambda model, x: x * 2 if x.shape[1] == 8 and x.size(1) % 4 == 0 else x,
    "sizes alike": lambda model, x: x * 2 if x.shape[2:] == (x + 1).shape[2:] else x,
    "unpacked": lambda model, x: sum((x / size for size in x.shape), torch.zeros(())) if len(x.shape) == 4 else x,
    "for": lambda model, x: torch.cat([part * index for index, part in enumerate(x.split(4, 1))], 1),
    "dtype": lambda model, x: x * 2 if x.dtype == torch.float32 else x,
    "weight": lambda model, x: x * 2 if isinstance(model.a.weight, nn.Parameter) and model.a.bias is not None else x,
    "weight's size": lambda model, x: x.reshape(-1, model.a.weight.shape[0], *x.shape[2:]) * model.a.weight.dim(),
    "range of numbers": lambda model, x: x * 2 if isinstance(range(3), (list, range)) else x * 3,
    "isinstance of a range": lambda model, x: x * 3 if isinstance(x, (list, range)) else x * 2,
    "range": lambda model, x: torch.cat([x[:, i : i + 1] * i for i in range(x.shape[1])], 1),
    "int": lambda model, x: x * int(x.shape[1]),
    "float": lambda model, x: x / float(x.size(1)),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_answered_truly(name: str) -> None:
    assert_records(Net(QUESTIONS[name]), training=False)


def check_by_assert(model: Any, x: Tensor) -> Tensor:
    assert x.shape[2] % 32 == 0, f"bad size {x.shape}"
    return x


def check_by_raise(model: Any, x: Tensor) -> Tensor:
    if x.shape[2] % 32 != 0 or x.shape[3] % 32:
        raise ValueError(f"sizes must be multiples of 32, got {x.shape[2]}x{x.shape[3]}")
    return x


def check_of_values(model: Any, x: Tensor) -> Tensor:
    if not torch.isfinite(x).all():
        raise ValueError("not finite")
    return x


@pytest.mark.parametrize("check", [check_by_assert, check_by_raise, check_of_values])
def test_checks_of_the_input_cost_no_trace(check: Forward) -> None:
    model = Net(check)
    assert_records(model, training=False)
    kept = antialias(model, form="class")
    assert type(kept).__bases__[0] is Net or type(kept) is Net


def test_a_branch_that_a_size_decides_is_checked_when_the_graph_runs() -> None:
    model = Net(lambda model, x: x * 2 if x.shape[-1] > 20 else x * 3)
    traced = assert_records(model, training=False)
    with pytest.raises(AssertionError, match=r"x\.shape\[-1\] > 20.*decides otherwise.*convert with example_inputs"):
        traced(X[..., :16])
    small = trace(model, as_inputs(X[..., :16]))
    assert torch.equal(small(X[..., :16]), model(X[..., :16]))


BY_SIZE: dict[str, Forward] = {
    "size": lambda model, x: x * 2 if x.size(-1) > 20 else x * 3,
    "numel": lambda model, x: x * 2 if x.numel() > 8 * 20 * 20 else x * 3,
    "a size computed": lambda model, x: x * 2 if x.shape[2] * x.shape[3] // 2 > 200 else x * 3,
}


@pytest.mark.parametrize("name", BY_SIZE)
def test_however_a_size_is_read_its_branch_is_checked(name: str) -> None:
    model = Net(BY_SIZE[name])
    traced = trace(model, as_inputs(X[:1]))
    assert torch.equal(traced.eval()(X[:1]), model.eval()(X[:1]))
    with pytest.raises(AssertionError, match="decides otherwise"):
        traced(X[:1, :, :8, :8])


def test_a_branch_that_values_of_the_input_decide_is_refused() -> None:
    model = Net(lambda model, x: x * 2 if x.mean() > 0 else x)
    with pytest.raises(TraceError, match=r"x\.mean\(\) > 0"):
        trace(model)


def autocast(model: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model.a(x[:, :3]).float()


def without_gradients(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def random_branch(model: Any, x: Tensor) -> Tensor:
    return x * 2 if model.training and torch.rand(1) < 0.5 else x


def random_by_python(model: Any, x: Tensor) -> Tensor:
    return x * random.random() if model.training else x


def random_by_numpy(model: Any, x: Tensor) -> Tensor:
    return x * float(numpy.random.rand()) if model.training else x


def sets_an_attribute(model: Any, x: Tensor) -> Tensor:
    model.loss = x.mean()
    return x


def sets_in_a_list(model: Any, x: Tensor) -> Tensor:
    model.kept.append(x)
    return x


def by_value(model: Any, x: Tensor) -> Tensor:
    return x * 2 if model.ready == 0 else x


def by_item(model: Any, x: Tensor) -> Tensor:
    return x * model.ready.item()


OMITTED: dict[str, tuple[Forward, str]] = {
    "autocast": (autocast, r"torch\.autocast\(\)"),
    "no_grad": (without_gradients, r"torch\.no_grad\(\)"),
    "a random branch": (random_branch, "a branch that random numbers decide"),
    "Python's random": (random_by_python, "random numbers that forward draws in Python or NumPy"),
    "NumPy's random": (random_by_numpy, "random numbers that forward draws in Python or NumPy"),
    "an attribute": (sets_an_attribute, "the attribute 'loss'"),
    "a list": (sets_in_a_list, "the attribute 'kept'"),
    "a value": (by_value, "a branch that a value of its own decides"),
    "an item": (by_item, "what the value of 'ready' decides"),
}


@pytest.mark.parametrize("name", OMITTED)
def test_what_a_graph_leaves_out_is_said_and_the_class_carries_it(name: str) -> None:
    between, fact = OMITTED[name]
    model = Net(between, ready=torch.zeros(()))
    model.kept = []
    with pytest.warns(OmissionWarning, match=fact):
        antialias(model, form="graph")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = antialias(model, form="class")
    (mine, _), (theirs, _) = ran(model, True), ran(antialias(model, 1, form="class"), True)
    if "random" not in name or "branch" in name:
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)
    assert type(kept).__name__ == "Net"
    assert model.kept == []


def test_the_random_state_is_left_as_found() -> None:
    model = Net(lambda model, x: x * random.random() * float(numpy.random.rand()) * torch.rand(1))
    found = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        antialias(model)
    assert found == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


DRAWS: dict[str, Forward] = {
    "rand": lambda model, x: x * torch.rand(1),
    "randn of a shape": lambda model, x: x + torch.randn(x.shape) * 0.1,
    "randn of sizes": lambda model, x: x + torch.randn(x.size(0), 1, 1, 1, device=x.device),
    "uniform_": lambda model, x: x * torch.empty(1).uniform_(0, 1),
    "bernoulli": lambda model, x: x * torch.bernoulli(torch.full((8, 1, 1), 0.5)),
    "randperm": lambda model, x: x[:, torch.randperm(8)],
    "like": lambda model, x: x + torch.rand_like(x),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_drawn_in_each_run(name: str) -> None:
    model = Net(DRAWS[name])
    assert_records(model, training=True)
    first, second = ran(model, training=True, times=2)[0]
    assert not torch.equal(first, second)


class Arguments(Net):
    def __init__(self) -> None:
        super().__init__(lambda model, x: x)

    def forward(self, x: Tensor, features: bool = False, mask: Tensor | None = None, *, scale: float = 2.0) -> Any:  # type: ignore[override]
        y = super().forward(x if mask is None else x * mask) * scale
        return (y, x) if features else y


def test_arguments_keep_their_names_and_defaults() -> None:
    traced = trace(Arguments())
    for given in ({}, {"features": False}, {"mask": None}, {"scale": 2.0}, {"features": False, "mask": None}):
        assert torch.equal(traced(X, **given), traced(x=X))
    assert torch.equal(traced(X, False), traced(X))
    for given in ({"features": True}, {"mask": X}, {"scale": 3.0}):
        with pytest.raises((AssertionError, RuntimeError), match=r"converted for|ambiguous"):
            traced(X, **given)


def test_arguments_that_the_example_gives_are_the_graphs() -> None:
    model = Arguments()
    converted = antialias(model, 1, example_inputs=(X, True), example_kwargs={"mask": X}, form="graph")
    for a, b in zip(converted(X, True, mask=X * 2), model(X, True, mask=X * 2), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(AssertionError, match="converted for features=True"):
        converted(X, mask=X)


class OfNames(Net):
    def forward(self, **images: Tensor) -> Any:  # type: ignore[override]
        return super().forward(images["x"])


class OfMany(Net):
    def forward(self, *images: Tensor) -> Any:  # type: ignore[override]
        return super().forward(images[0])


def test_arguments_without_names_of_their_own() -> None:
    named, many = OfNames(lambda model, x: x), OfMany(lambda model, x: x)
    assert torch.equal(
        antialias(named, 1, example_kwargs={"x": X})(x=X), antialias(named, 1, example_kwargs={"x": X})(x=X)
    )
    torch.testing.assert_close(antialias(named, 1, example_kwargs={"x": X})(x=X), named(x=X))
    torch.testing.assert_close(antialias(many, 1)(X), many(X))


def test_modules_may_be_called_as_words_of_python_are() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("class", nn.Conv2d(3, 8, 3, 1, 1))
            self.add_module("global", nn.ModuleDict({"lambda": nn.Conv2d(8, 8, 3, 2, 1), "plain": nn.ReLU()}))

        def forward(self, x: Tensor) -> Tensor:
            inner: Any = getattr(self, "global")
            return inner["plain"](inner["lambda"](getattr(self, "class")(x)))

    model = Words().eval()
    converted = antialias(model, 1, form="graph")
    torch.testing.assert_close(converted(X), model(X))
    assert plan(model).rewritten[0].site == "global.lambda"


def test_hooks_of_pools_that_a_graph_replaces_are_said_to_be_lost() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
    model[2].register_forward_hook(lambda module, args, output: None)
    with pytest.warns(HooksWarning, match="hooks of '2'"):
        antialias(model, form="graph")


class Forgets(nn.Module):
    """A forward that no tracer records truly: it looks at the class of what it is given by `type`."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if type(x) in (Tensor, nn.Parameter) else x * 3


class ForgetsAndStrides(Forgets):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


def test_a_graph_that_differs_is_not_returned_and_the_place_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(ForgetsAndStrides()), nn.Conv2d(8, 8, 3, 2, 1))
    traced = trace(model)
    assert traced.meta["front_end"].startswith("torch.export")
    assert "torch.fx records something else than Sequential computes" in traced.meta["refusals"][0]
    assert "first in '1.0'" in traced.meta["refusals"][0]
    x = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(traced.eval()(x), model.eval()(x))


def test_a_module_in_which_a_graph_differs_stays_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(Forgets()), nn.Conv2d(8, 8, 3, 2, 1))
    traced = trace(model)
    assert traced.meta["front_end"] == "torch.fx"
    assert "1.0" in traced.leaf_paths()
    torch.testing.assert_close(traced.eval()(X), model.eval()(X))


def test_a_difference_of_kind_is_found_without_weights() -> None:
    class Rank(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x if type(x) is Tensor else x.flatten(1)

    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Rank(8, 8, 3, 2, 1))
    refused = trace(model).meta["refusals"]
    assert "is of shape" in refused[0]
