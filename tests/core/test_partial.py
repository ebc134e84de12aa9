"""Models that cannot be traced whole: their largest parts that can are converted, and the rest is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from blurify import antialias, load, plan, save, verify
from blurify.errors import ArgumentError, TraceError
from blurify.graph.module import TracedModule
from blurify.planning.plan import Plan
from blurify.sites import Kind, Reason
from blurify.tracing.tracer import LeafAwareTracer
from tests.conftest import randomize_statistics

X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU()
        self.width = o

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Head(nn.Module):
    """Keeps what scores above the mean: its output's size depends on values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.scores, self.down = (
            Block(width, width),
            nn.Conv2d(width, 1, 1),
            nn.Conv2d(width, width, 3, 2, 1),
        )

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        found = []
        for x in maps:
            x = self.stem(x)
            scores = self.scores(x).flatten()
            found.append(scores[scores > scores.mean()])
            if scores.max() > 1e9:
                x = self.down(x)
        return {"scores": torch.cat(found)}


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(Block(3, 8, 2), Block(8, 8, 2), nn.MaxPool2d(2))
        self.neck = nn.ModuleList([Block(8, 8), Block(8, 8, 2)])
        self.head = Head(self.neck[-1].width)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.mean() > 1e9:
            raise ValueError("not normalized")
        x = self.backbone(images)
        maps = [x, self.neck[1](self.neck[0](x))]
        return self.head(maps) | {"width": torch.tensor(self.neck[1].width)}


class Written(nn.Module):
    """Its layers are called by a forward that looks at values, as in many scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.MaxPool2d(2)
        self.more = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.a(x)))
        if x.mean() > 1e9:
            return x
        return self.more(F.relu(self.b(x)))


def decided(made: Plan) -> dict[str, Reason | None]:
    return {d.site: d.reason for d in made.decisions}


def made_of(model: nn.Module) -> Plan:
    made: Plan = model.meta["blurify"]
    return made


@pytest.mark.parametrize("form", [None, "class", "graph"])
def test_the_parts_of_a_detector_are_converted(form: str | None) -> None:
    model = randomize_statistics(Detector()).eval()
    converted = antialias(model, example_inputs=X, partial=True, form=form)
    made = made_of(converted)
    assert isinstance(converted, Detector)
    assert decided(made) == {
        "backbone.0.conv": Reason.STEM,
        "backbone.1.conv": None,
        "backbone.2": None,
        "neck.1.conv": None,
        "head.down": Reason.OPAQUE,
    }
    assert [d.landing for d in made.rewritten] == ["backbone.1.act", "backbone.2", "neck.1.act"]
    assert [(part.path, bool(part.reason)) for part in made.parts] == [
        ("backbone", False),
        ("neck.1", False),
        ("head", True),
    ]
    assert isinstance(converted.backbone, TracedModule) is (form == "graph")
    assert list(converted.state_dict()) == list(model.state_dict())
    verdict = verify(model, converted, X)
    assert verdict.ok
    assert [shape.site for shape in verdict.shapes] == ["backbone.1.conv", "backbone.2", "neck.1.conv"]
    assert not torch.equal(converted(X)["scores"][:4], model(X)["scores"][:4])


def test_one_tap_gives_what_the_model_gives() -> None:
    model = randomize_statistics(Detector()).eval()
    converted = antialias(model, 1, example_inputs=X, partial=True)
    torch.testing.assert_close(converted(X), model(X))


def test_layers_called_by_a_forward_that_looks_at_values() -> None:
    model = Written().eval()
    converted = antialias(model, example_inputs=X, partial=True)
    assert decided(made_of(converted)) == {"b": Reason.PART_END, "pool": None, "more.0": None}
    assert verify(model, converted, X).ok


def test_the_refusal_names_the_way_out() -> None:
    with pytest.raises(TraceError, match=r"Or convert what can be traced, 'backbone' for one, with partial=True"):
        plan(Detector(), example_inputs=X)


def test_a_refusal_records_the_model_once_and_a_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []
    record = LeafAwareTracer.trace

    def counted(self: LeafAwareTracer, root: nn.Module, concrete_args: Any = None) -> fx.Graph:
        recorded.append(type(root).__name__)
        return record(self, root, concrete_args)

    monkeypatch.setattr(LeafAwareTracer, "trace", counted)
    with pytest.raises(TraceError, match="'backbone' for one"):
        plan(Detector())
    assert recorded == ["Detector", "Sequential"]


class NothingToTrace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() < 1e9 else x


def test_a_model_without_such_parts_is_refused() -> None:
    with pytest.raises(TraceError, match=r"None of its parts that can be traced has a site to rewrite\.$") as caught:
        plan(NothingToTrace(), example_inputs=X, partial=True)
    assert "partial=True" not in str(caught.value)
    with pytest.raises(TraceError) as caught:
        plan(NothingToTrace(), example_inputs=X)
    assert "partial=True" not in str(caught.value)


def test_inputs_that_the_model_refuses_are_said() -> None:
    with pytest.raises(ArgumentError, match=r"Detector does not run on the given example_inputs: .* channels"):
        plan(Detector(), example_inputs=torch.randn(1, 5, 64, 64), partial=True)


def test_patterns_name_sites_of_the_whole() -> None:
    sizes = {"neck.*": 3, "*": 5}
    made = plan(Detector(), sizes, example_inputs=X, partial=True, exclude="backbone.2", stem=True)
    assert [(d.site, d.filt_size) for d in made.rewritten] == [
        ("backbone.0.conv", (5, 5)),
        ("backbone.1.conv", (5, 5)),
        ("neck.1.conv", (3, 3)),
    ]
    with pytest.raises(ArgumentError, match=r"exclude pattern 'neck\.7' matches no site"):
        plan(Detector(), example_inputs=X, partial=True, exclude="neck.7")


def test_a_plan_of_parts_goes_through_json_and_applies() -> None:
    model = randomize_statistics(Detector()).eval()
    made = plan(model, example_inputs=X, partial=True)
    again = Plan.from_json(made.to_json())
    assert again == made
    assert "left as it is: head (Head): Head cannot be traced" in str(made)
    converted = again.apply(model, example_inputs=X, form="auto")
    assert verify(model, converted, X).ok


def test_a_second_run_changes_nothing() -> None:
    once = antialias(randomize_statistics(Detector()).eval(), example_inputs=X, partial=True)
    with pytest.raises(TraceError, match="None of its parts"):
        antialias(once, example_inputs=X, partial=True)


class Listed(Detector):
    """Calls a part by a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [self.backbone]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"y": self.stages[0](images)} if images.mean() < 1e9 else {}


def test_a_part_that_is_called_by_another_way_is_not_lost_silently() -> None:
    with pytest.raises(ValueError, match="calls them by another way than its tree of modules"):
        antialias(Listed(), example_inputs=X, partial=True)


def test_the_model_stays_as_it_is_and_parts_are_shared_in_place() -> None:
    model = Detector()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    converted = antialias(model, example_inputs=X, partial=True, inplace=True)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert model.training
    assert [id(p) for p in converted.parameters()] == [id(p) for p in model.parameters()]
    assert all(converted.get_submodule(path).training for path in ("backbone", "neck.1"))


def detector(**_: Any) -> nn.Module:
    return Detector()


def test_a_recipe_of_parts_is_read_back(tmp_path: Path) -> None:
    converted = antialias(randomize_statistics(Detector()).eval(), example_inputs=X, partial=True)
    arch = "tests.core.test_partial:detector"
    save(converted, tmp_path / "detector.pt", arch=arch)
    again = load(tmp_path / "detector.pt", allow=[arch])
    torch.testing.assert_close(again(X), converted(X))
    save(converted, tmp_path / "module.pt")


def test_kinds_are_named() -> None:
    made = plan(Detector(), example_inputs=X, partial=True)
    assert {d.kind for d in made.kept} == {Kind.CONV, Kind.OPAQUE}
