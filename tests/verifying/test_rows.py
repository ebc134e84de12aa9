"""What each row of a verdict shows, by faults that only that row sees."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, verify
from blurify.verifying.verdict import Row, Verdict
from tests.conftest import randomize_statistics

X = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
FORMS = ["graph", "class"]


class Net(nn.Module):
    """Two sites, a dropout, a buffer that weights are scaled by; `fault` is what a conversion might get wrong."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault = fault
        self.stem, self.pool = nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(2)
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8, momentum=0.9 if fault == "buffers" else 0.1)
        self.drop = nn.Dropout(0.0 if fault == "random" else 0.5)
        self.register_buffer("scale", torch.rand(8, 1, 1) + 0.5)
        self.constant = self.scale.clone()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(F.relu(self.stem(x)))
        y = F.relu(self.norm(self.conv(y.detach() if self.fault == "gradients" else y)))
        y = y * (self.constant if self.fault == "reload" else self.scale)
        y = self.head(self.drop(y).mean((2, 3)))
        return y.double() if self.fault == "dtypes" else y


def rows(verdict: Verdict) -> dict[str, Row]:
    return {row.name: row for row in verdict.rows}


def proved(fault: str, form: str) -> Verdict:
    model = randomize_statistics(Net()).eval()
    faulty = Net(fault).eval()
    faulty.load_state_dict(model.state_dict())
    return verify(model, antialias(faulty, form=form), X)


@pytest.mark.parametrize("form", FORMS)
def test_all_rows_hold_where_nothing_is_wrong(form: str) -> None:
    verdict = proved("", form)
    assert verdict.ok, str(verdict)
    assert list(rows(verdict)) == ["reload", "train", "gradients", "dtypes"]
    assert {row.state for row in verdict.rows} == {"ok"}
    seen = "equal random draws" if form == "graph" else "own random draws"
    assert seen in rows(verdict)["train"].text
    assert "the same 8 parameters get one in training" in rows(verdict)["gradients"].text
    assert rows(verdict)["dtypes"].text == "all outputs keep name, size and dtype (1 float32)"


FAULTS = {
    "reload": ("reload", "differ by"),
    "random": ("train", "do not draw the same random numbers"),
    "buffers": ("train", "at norm.running"),
    "gradients": ("gradients", "stem.bias gets none any more, and 1 others changed too"),
    "dtypes": ("dtypes", "the output is float64 2x4 and was float32 2x4"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_row_sees_its_fault(fault: str, form: str) -> None:
    verdict = proved(fault, form)
    name, text = FAULTS[fault]
    assert not verdict.ok
    assert rows(verdict)[name].state == "failed"
    assert text in rows(verdict)[name].text
    assert f"{name:<9} FAILED" in str(verdict)
    if fault not in ("reload", "random"):  # what these change is seen in the passes that follow, too
        assert {row.name for row in verdict.rows if row.state == "failed"} == {name}


@pytest.mark.parametrize("form", FORMS)
def test_both_models_are_left_as_found(form: str) -> None:
    model = randomize_statistics(Net()).train()
    model.drop.eval()
    converted = antialias(model, form=form)
    models, states = (model, converted), []
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    for each in models:
        tensors = [*each.parameters(), *each.buffers()]
        states.append([(id(t), t._version, t.clone()) for t in tensors])
    modes = [[module.training for module in each.modules()] for each in models]
    assert verify(model, converted, X).ok
    for each, before in zip(models, states, strict=True):
        tensors = [*each.parameters(), *each.buffers()]
        assert [(id(t), t._version) for t in tensors] == [(identity, version) for identity, version, _ in before]
        assert all(torch.equal(t, value) for t, (_, _, value) in zip(tensors, before, strict=True))
        assert all(p.grad is None for p in each.parameters())
    assert modes == [[module.training for module in each.modules()] for each in models]
    assert torch.equal(draws[0], torch.get_rng_state())
    assert draws[1] == random.getstate()
    assert draws[2] == np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]


@dataclass
class Result:
    logits: Tensor
    features: list[Tensor | None]
    note: str = "a note"


class Returning(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 1, 1))

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        if self.kind == "dict":
            return {"out": y, "aux": None, "deep": {"mask": y > 0, "half": y.half()}}
        if self.kind == "dataclass":
            return Result(y, [y + 1, None])
        return y, (y.mean((2, 3)), [None, (y.argmax(1),)]), None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("dict", "1 float32, 1 bool, 1 float16"),
        ("dataclass", "2 float32"),
        ("tuple", "2 float32, 1 int64"),
    ],
)
def test_whatever_a_model_returns_is_compared(kind: str, counts: str, form: str) -> None:
    model = Returning(kind).eval()
    verdict = verify(model, antialias(model, form=form), X)
    assert verdict.ok, str(verdict)
    assert counts in rows(verdict)["dtypes"].text


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, **kw: Any) -> Tensor:
        return self.body(kw["image"]) * kw.get("factor", 1.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", FORMS)
def test_arguments_by_keyword_alone(form: str) -> None:
    model = ByKeyword().eval()
    given = {"image": X, "factor": torch.tensor(2.0)}
    verdict = verify(model, antialias(model, form=form, example_kwargs=given), example_kwargs=given)
    assert verdict.ok, str(verdict)


def test_a_batch_of_one_is_doubled_where_training_needs_it() -> None:
    # The first norm is updated before the second one refuses the batch.
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 2, 1), *pooled).eval()
    verdict = verify(model, antialias(model), X[:1])
    assert verdict.ok
    assert rows(verdict)["train"].state == "ok"


class EvalOnly(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("needs targets")
        return super().forward(x)


class Scaled(nn.Module):
    """A norm of one value, which training refuses, and an argument without a batch to be doubled."""

    def __init__(self) -> None:
        super().__init__()
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.MaxPool2d(2), *pooled)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.body(x) * scale  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (EvalOnly(), (X,), "the model was recorded after .eval() only, so .train() switches its layers alone"),
        (Scaled(), (X[:1], torch.tensor(2.0)), "the original does not run on this input after .train(): Expected more"),
    ],
)
def test_what_cannot_be_trained_is_skipped_and_its_gradients_are_those_after_eval(
    model: nn.Module, inputs: tuple[Tensor, ...], why: str
) -> None:
    verdict = verify(model.eval(), antialias(model, example_inputs=inputs, form="graph"), inputs)
    assert verdict.ok, str(verdict)
    assert rows(verdict)["train"].state == "skipped"
    assert rows(verdict)["train"].text.startswith(why)
    assert "get one after .eval()" in rows(verdict)["gradients"].text
    assert "train     skip  " in str(verdict)


def test_large_models_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurify.verifying.proving.MOST_BYTES", 100)
    model = Net().eval()
    for form in FORMS:
        verdict = verify(model, antialias(model, form=form), X)
        assert verdict.ok
        assert {row.state for row in verdict.rows if row.name != "dtypes"} == {"skipped"}
        assert "copies of 0.0 GiB of weights would not be cheap" in str(verdict)


def test_what_cannot_be_copied_is_said() -> None:
    model = Net().eval()
    model.lock = Uncopyable()
    verdict = verify(model, antialias(model, inplace=True), X)
    assert verdict.ok
    assert "the model cannot be copied: not this one" in rows(verdict)["reload"].text


class Uncopyable:
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("not this one")


def test_a_frozen_backbone_gets_no_gradient_in_either() -> None:
    model = Net().eval()
    model.stem.requires_grad_(False)
    verdict = verify(model, antialias(model), X)
    assert "the same 6 parameters" in rows(verdict)["gradients"].text
    everything = copy.deepcopy(model).requires_grad_(False)
    verdict = verify(everything, antialias(everything), X)
    assert rows(verdict)["gradients"].text == "no parameter gets one in training, in either model"
