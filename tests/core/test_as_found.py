"""The caller's model is left as found, and what it has that a graph has not is kept or said."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.errors import HooksWarning, OmissionWarning, TraceError
from blurify.tracing.modes import as_found
from tests.conftest import run


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())


class Remembers(nn.Module):
    """Keeps what goes through it, in every way that people do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()
        self.calls = 0
        self.features: dict[str, list[Any]] = {"all": []}
        self.names = ["a"]

    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        self.calls += 1
        self.features["all"].append(x)
        self.names.append("b")
        return self.body(x) + torch.ones(1)


def test_what_forward_does_to_the_model_is_undone() -> None:
    model = Remembers()
    before = dict(model.__dict__)
    with pytest.warns(OmissionWarning, match="the attribute 'calls' that forward sets"):
        assert verify(model, antialias(model)).ok
    assert model.__dict__ == before
    assert (model.calls, model.features, model.names) == (0, {"all": []}, ["a"])
    assert not hasattr(model, "last")
    assert not [name for name in vars(model) if "constant" in name]


class Adapter(nn.Module):
    """A conv with a low-rank addition that is merged into its weight for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 2, 1)
        self.low = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.merged = False

    def train(self, mode: bool = True) -> Adapter:
        super().train(mode)
        if mode is self.merged:
            self.conv.weight.data += -self.low.data if mode else self.low.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("mode", [True, False])
def test_weights_that_the_mode_changes_are_refused_and_left(mode: bool) -> None:
    model = nn.Sequential(Adapter()).train(mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TraceError, match=r"change the weight '0\.conv\.weight' itself.*merge the adapters"):
        antialias(model)
    assert model[0].merged is not mode
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class OwnSwitch(nn.Module):
    """A `train` of its own that changes no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()
        self.switched = 0

    def train(self, mode: bool = True) -> OwnSwitch:
        super().train(mode)
        self.switched += 1
        self.body[0].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_train_method_of_ones_own_may_do_other_things() -> None:
    model = OwnSwitch()
    assert verify(model, antialias(model)).ok
    assert model.switched == 0
    assert model.body[0].training


def doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """A hook with an effect."""
    return output * 2


def test_hooks_of_the_root_stay() -> None:
    model = block()
    model.register_forward_hook(doubled)
    converted = antialias(model)
    x = torch.randn(1, 3, 16, 16)
    bare = antialias(block_without_hooks(model))
    torch.testing.assert_close(run(converted, x), 2 * run(bare, x))
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), antialias(model, inplace=True)):
        assert torch.equal(run(twin, x), run(converted, x))
    assert verify(model, converted).ok


def block_without_hooks(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    twin._forward_hooks.clear()
    return twin


def test_hooks_of_layers_stay() -> None:
    model = block()
    model[0].register_forward_hook(doubled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = antialias(model)
    assert verify(model, converted).ok


def test_hooks_of_containers_are_not_run_and_their_loss_is_said() -> None:
    model = nn.Sequential(block(), nn.Sequential(block()[2]))
    seen: list[Any] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args))
    with pytest.warns(HooksWarning, match=r"hooks of '0', '1'.*not carried over"):
        converted = antialias(nn.Sequential(model)[0], form="graph")
    assert not seen
    assert len(model[0]._forward_hooks) == 1
    with pytest.warns(HooksWarning):
        plan(model).apply(model, form="graph")
    run(converted, torch.randn(1, 8, 16, 16)[:, :3])
    assert not seen


class Counted(nn.Module):
    """State that is no tensor, in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()
        self.state = {"seen": 3}

    def get_extra_state(self) -> dict[str, int]:
        return self.state

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_maps_that_hooks_collect_are_given_and_their_collector_is_left_as_found() -> None:
    model = timm.create_model("test_resnet", features_only=True, feature_cls="hook").eval()
    x = torch.rand(1, 3, 64, 64)
    maps = model(x)
    converted = antialias(model, filt_size=1, example_inputs=(x,))
    assert list(map(list, model.hooks._feature_outputs.values())) == [[]]
    assert all(isinstance(device, torch.device) for device in model.hooks._feature_outputs)
    torch.testing.assert_close(converted(x), maps)


def test_maps_that_hooks_collect_are_proved() -> None:
    model = timm.create_model("test_resnet", features_only=True, feature_cls="hook").eval()
    x = torch.rand(1, 3, 64, 64)
    assert verify(model, antialias(model, example_inputs=(x,)), example_inputs=(x,)).ok


@pytest.mark.parametrize("inside", [True, False])
def test_extra_state_of_containers_is_carried(inside: bool) -> None:
    model = nn.Sequential(Counted()) if inside else Counted()
    converted = antialias(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    for twin in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        twin.load_state_dict(model.state_dict(), strict=True)
        model.load_state_dict(twin.state_dict(), strict=True)
        assert next(v for k, v in twin.state_dict().items() if "extra" in k) == {"seen": 3}
    # The class of one converted model says nothing of another's.
    assert not any("extra" in name for name in antialias(block()).state_dict())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "pruned"])
def test_weights_that_hooks_compute(how: str) -> None:
    from torch.nn.utils import prune, spectral_norm, weight_norm

    model = block().eval()
    if how == "pruned":
        prune.l1_unstructured(model[2], "weight", 0.5)
    else:
        {"weight_norm": weight_norm, "spectral_norm": spectral_norm}[how](model[2])
    model(torch.randn(1, 3, 8, 8))
    converted = antialias(model)
    assert verify(model, converted).ok
    assert list(converted.state_dict()) == list(model.state_dict())
    converted(torch.randn(1, 3, 8, 8)).sum().backward()
    name = "weight_g" if how == "weight_norm" else "weight_orig"
    gradient = getattr(converted.get_submodule("2"), name).grad
    assert gradient is not None
    assert getattr(model[2], name).grad is None


def test_attributes_put_on_the_result_survive_copies() -> None:
    converted = antialias(block())
    converted.labels = ["cat", "dog"]
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert twin.labels == ["cat", "dog"]
        assert twin.labels is not converted.labels


def test_timms_word_on_the_input_size_is_carried() -> None:
    import timm

    converted = antialias(timm.create_model("test_resnet"))
    assert copy.deepcopy(converted).pretrained_cfg["input_size"] == (3, 160, 160)


class HeadInTraining(nn.Module):
    """A strided conv that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()
        self.head = nn.Conv2d(8, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (x, self.head(x).relu()) if self.training else x


def test_both_modes_are_proved() -> None:
    model = HeadInTraining()
    converted = antialias(model, form="graph")
    verdict = verify(model, converted, torch.randn(2, 3, 32, 32))
    assert verdict.ok
    assert next(row.state for row in verdict.rows if row.name == "train") == "ok"
    assert [shape.site for shape in verdict.shapes] == ["body.2", "head"]
    node = next(node for node in converted.graphs[-1].nodes if node.target == "head_blur")
    with converted.edited():
        node.replace_all_uses_with(node.all_input_nodes[0])
        converted.graphs[-1].erase_node(node)
    assert not verify(model, converted, torch.randn(2, 3, 32, 32)).ok


def test_filters_are_where_the_map_is() -> None:
    model = nn.Sequential(block(), nn.MaxPool2d(2), block().to("meta")[0:2], nn.MaxPool2d(2), nn.AvgPool2d(2))
    model[2] = nn.Sequential(nn.Conv2d(8, 8, 1, device="meta"))
    converted = antialias(model, form="graph")
    devices = {name: b.device.type for name, b in converted.named_buffers()}
    assert devices == {"0.2_blur.filt": "cpu", "1_blur.filt": "cpu", "3_blur.filt": "meta", "4.filt": "meta"}


class Containers(nn.Module):
    """Empty containers, a module that is None, a tied module, a parameter with strides of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()
        self.empty = nn.Sequential()
        self.nothing = None
        self.register_module("none", None)
        self.again = self.body[2]
        self.body[2].weight = nn.Parameter(self.body[2].weight.detach().to(memory_format=torch.channels_last))
        self.expanded = nn.Parameter(torch.ones(1).expand(8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.empty(self.body(x)) * self.expanded[:, None, None]


def test_the_copy_shares_nothing_and_is_alike() -> None:
    model = Containers()
    converted = antialias(model)
    assert verify(model, converted).ok
    theirs = dict(converted.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        assert theirs[path] is not module
    for name, parameter in model.named_parameters():
        twin = converted.get_parameter(name)
        assert twin.untyped_storage().data_ptr() != parameter.untyped_storage().data_ptr()
        # A copy of what is spread out has a place for each element, as `copy.deepcopy` has it.
        assert twin.stride() == (parameter.stride() if name != "expanded" else (1,))
    assert converted.get_parameter("again.weight") is converted.get_parameter("body.2.weight")
    assert converted._modules["none"] is None


class ScaledByANumber(nn.Module):
    """A number on another device stands between the weights and the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, device="meta")
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.scale * self.conv(x), 2)


def test_a_number_does_not_tell_the_device() -> None:
    devices = {name: b.device.type for name, b in antialias(ScaledByANumber()).named_buffers()}
    assert devices == {"scale": "cpu", "avg_pool2d.filt": "meta"}


@pytest.mark.parametrize("content", [(), (1,)], ids=["empty", "filled"])
def test_containers_are_emptied_and_filled_again(content: tuple[int, ...]) -> None:
    model = nn.Identity()
    model.seen = [*content]
    model.by_name = OrderedDict(dict.fromkeys(content))
    model.known = {"inside": [*content]}
    model.holder = SimpleNamespace(numbers={*content})
    with as_found(model):
        model.seen.append(2)
        model.by_name[2] = None
        model.by_name.note = 2
        model.known["inside"].append(2)
        model.holder.numbers.add(2)
        model.holder.more = 2
        model.register_forward_hook(lambda *_: None)
    assert (model.seen, list(model.by_name), model.known["inside"]) == ([*content], [*content], [*content])
    assert vars(model.holder) == {"numbers": {*content}}
    assert not hasattr(model.by_name, "note")
    assert not model._forward_hooks
