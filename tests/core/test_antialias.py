"""The laws of the rewrite on small models, each made to break one of them."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from blurify import NoEffectWarning, antialias, plan, verify
from blurify.errors import ArgumentError, ArgumentTypeError, BlurifyError, PlanError, TraceError
from blurify.layers import BlurPool2d
from blurify.measure.cost import cost
from blurify.planning.plan import Plan
from blurify.sites import Reason
from tests.conftest import randomize_statistics, run


def stage(*extra: nn.Module) -> nn.Sequential:
    """A stem, then a strided conv, norm and activation, then `extra`."""
    body = [nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), *extra]
    return randomize_statistics(nn.Sequential(*body)).eval()


class TwoCalls(nn.Module):
    """One strided conv and one pool, each called twice."""

    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = conv or nn.Conv2d(4, 4, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x)).relu()
        return self.pool(self.conv(self.pool(x)).relu())


def test_a_module_called_twice_is_two_sites() -> None:
    model = TwoCalls()
    made = plan(model)
    assert [d.site for d in made.decisions] == ["conv", "pool", "conv_1", "pool_1"]
    assert [d.landing for d in made.decisions] == ["relu", "pool", "relu_1", "pool_1"]
    assert verify(model, antialias(model), torch.randn(1, 3, 40, 40)).ok


@pytest.mark.parametrize("kept", ["conv", "conv_1", "pool", "pool_1"])
def test_one_call_of_a_module_can_be_kept(kept: str) -> None:
    model = TwoCalls()
    converted = antialias(model, exclude=kept)
    assert [d.site for d in converted.meta["blurify"].kept] == [kept]
    x = torch.randn(1, 3, 40, 40)
    assert verify(model, converted, x).ok
    assert set(converted.state_dict()) == set(model.state_dict())
    assert not torch.equal(run(converted, x), run(antialias(model), x))


def test_a_call_that_cannot_be_split_is_kept_whole() -> None:
    model = TwoCalls(nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect"))
    made = plan(model, exclude="conv_1")
    assert {d.site: d.reason for d in made.kept} == {"conv": Reason.SHARED_MODULE, "conv_1": Reason.EXCLUDED}
    assert verify(model, antialias(model, exclude="conv_1"), torch.randn(1, 3, 40, 40)).ok
    # Nor by a plan that was written by hand.
    split = Plan((plan(model).decisions[0], made.decisions[1]))
    with pytest.raises(PlanError, match="keeps another call of its Conv2d, which cannot have two strides; plan both"):
        split.apply(model)


def test_names_values_ties_and_requires_grad() -> None:
    model = stage(nn.Conv2d(8, 8, 3, 2, 1), nn.MaxPool2d(2))
    model[5].weight = model[2].weight
    model[0].weight.requires_grad_(False)
    model.register_buffer("scale", torch.ones(1), persistent=False)
    model.register_parameter("idle", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    converted = antialias(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert converted.get_parameter("5.weight") is converted.get_parameter("2.weight")
    assert converted.get_parameter("2.weight") is not model[2].weight
    assert not converted.get_parameter("0.weight").requires_grad
    assert converted.get_parameter("idle").dtype == torch.float64
    assert "scale" not in converted.state_dict()
    assert "scale" in dict(converted.named_buffers())
    assert not [n for n, _ in converted.named_parameters() if "blur" in n]


def test_inplace_shares_the_parameters_and_leaves_the_model() -> None:
    model = stage(nn.MaxPool2d(2))
    converted = antialias(model, inplace=True)
    assert converted.get_parameter("2.weight") is model[2].weight
    assert model[2].stride == (2, 2)
    assert converted.get_submodule("2").stride == (1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = converted.get_parameter("2.weight").clone()
    converted(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    assert not torch.equal(converted.get_parameter("2.weight"), before)


def test_without_inplace_training_the_result_leaves_the_model() -> None:
    model = stage()
    before = copy.deepcopy(model.state_dict())
    converted = antialias(model).train()
    converted(torch.randn(2, 3, 16, 16)).sum().backward()
    torch.optim.SGD(converted.parameters(), lr=0.1).step()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_modes_and_rng_are_left_as_found() -> None:
    model = stage(nn.Dropout())
    model.train()
    model[3].eval()
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    converted = antialias(model)
    verify(model, converted, torch.randn(1, 3, 16, 16, generator=torch.Generator()))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    # The result starts in the modes of the original.
    assert converted.training
    assert not converted.get_submodule("3").training


class Fails(nn.Module):
    """Control flow on data, in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Branch()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Branch(nn.Module):
    """Cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.norm(x)
        return self.pool(x)


def test_a_failed_trace_says_where_and_leaves_the_modes() -> None:
    model = Fails()
    model.inner.norm.eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(TraceError) as caught:
        antialias(model)
    message = str(caught.value)
    assert "Fails cannot be traced in 'inner'" in message
    assert "test_antialias.py" in message
    assert "if x.sum() > 0:" in message
    assert [m.training for m in model.modules()] == modes


class FreezesNorms(nn.Module):
    """Keeps its batch-norm in eval mode whatever the user says, as people do when they fine-tune."""

    def __init__(self) -> None:
        super().__init__()
        self.body = stage(nn.Dropout(0.5))

    def train(self, mode: bool = True) -> FreezesNorms:
        super().train(mode)
        self.body[3].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_frozen_norm_stays_frozen() -> None:
    converted = antialias(FreezesNorms().train())
    for mode in (True, False, True):
        converted.train(mode)
        assert converted.training is mode
        assert converted.get_submodule("body.5").training is mode
        assert not converted.get_submodule("body.3").training
    frozen = torchvision.ops.FrozenBatchNorm2d(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1), frozen, nn.ReLU())
    made = plan(model)
    assert made.rewritten[0].landing == "3"
    assert isinstance(antialias(model).train().get_submodule("2"), torchvision.ops.FrozenBatchNorm2d)


def test_drop_path_survives() -> None:
    model = timm.create_model("resnet18", drop_path_rate=0.5, zero_init_last=False)
    converted = antialias(model.eval())
    x = torch.randn(4, 3, 64, 64)
    converted.train()
    first, second = converted(x), converted(x)
    assert (first - second).abs().max() > 1e-3
    converted.eval()
    assert torch.equal(converted(x), converted(x))


def test_train_mode_computes_what_the_original_computes() -> None:
    for name in ("timm:resnet18", "torchvision:googlenet"):
        if name.startswith("timm"):
            model = timm.create_model("resnet18", drop_path_rate=0.5, zero_init_last=False)
        else:
            model = torchvision.models.googlenet(init_weights=False)
        same = antialias(model, 1)
        x = torch.randn(4, 3, 64, 64)
        model.train()
        same.train()
        for mode in (False, True):
            model.train(mode)
            same.train(mode)
            torch.manual_seed(1)
            expected = model(x)
            torch.manual_seed(1)
            actual = same(x)
            # In train mode batch-norm takes its statistics before the subsampling, so only its exactness is lost.
            if mode:
                assert type(actual) is type(expected)
            else:
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_second_conversion_has_nothing_to_do() -> None:
    model = stage(nn.MaxPool2d(2), nn.AvgPool2d(2))
    once = antialias(model)
    with pytest.warns(NoEffectWarning, match="nothing to do: Sequential is already antialiased"):
        twice = antialias(once)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(run(once, x), run(twice, x))
    assert twice.meta["blurify"] == once.meta["blurify"]
    assert {d.reason for d in plan(once).decisions} == {Reason.ALREADY_ANTIALIASED}


@pytest.mark.parametrize("form", ["auto", "class", "graph"])
@pytest.mark.parametrize("optimize", [True, False])
def test_a_plan_that_was_read_does_what_antialias_does(form: str, optimize: bool) -> None:
    model, x = torchvision.models.resnet18(), torch.randn(1, 3, 64, 64)
    by_name = antialias(model, form=form, optimize=optimize)
    by_plan = Plan.from_json(plan(model).to_json()).apply(model, form=form, optimize=optimize)
    assert cost(by_plan, x) == cost(by_name, x)
    for key in ("blurify", "blurify_form", "optimized"):
        assert by_plan.meta.get(key) == by_name.meta.get(key)


def test_what_apply_takes_for_granted_is_what_antialias_does() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (Plan.apply, antialias))
    shared = ours.keys() & theirs.keys() - {"form"}
    assert shared == {"model", "inplace", "optimize", "example_inputs", "example_kwargs"}
    assert all(ours[name].default == theirs[name].default for name in shared)
    model = torchvision.models.resnet18()
    assert plan(model).apply(model).meta["blurify_form"] == antialias(model).meta["blurify_form"] == "class"


def test_converting_in_two_steps_keeps_both_plans() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
    both = antialias(antialias(model, 3), 5, stem=True)
    made = both.meta["blurify"]
    assert {d.site: d.filt_size for d in made.rewritten} == {"0": (5, 5), "2": (3, 3)}
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(run(made.apply(model), x), run(both, x))
    assert verify(model, both, x).ok


@pytest.mark.parametrize(
    "blur",
    [
        lambda: timm.layers.BlurPool2d(8),
        lambda: BlurPool2d(8),
        lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
    ],
    ids=["timm", "ours", "fixed conv"],
)
def test_blurs_of_others_are_left_alone(blur: Any) -> None:
    layer = blur()
    if isinstance(layer, nn.Conv2d):
        nn.init.constant_(layer.weight, 1 / 9).requires_grad_(False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), layer)
    (decision,) = plan(model).decisions
    assert decision.reason is Reason.ALREADY_ANTIALIASED
    if isinstance(layer, nn.Conv2d):
        # The same conv, were it trainable, is a site.
        layer.weight.requires_grad_(True)
        assert plan(model).rewritten


def test_the_published_networks_are_recognised() -> None:
    import antialiased_cnns

    with pytest.warns(NoEffectWarning, match="already antialiased"):
        antialias(antialiased_cnns.vgg11(pretrained=False))


def test_nothing_to_do() -> None:
    with pytest.warns(NoEffectWarning, match="Linear has no strided pooling or convolution"):
        antialias(nn.Linear(3, 4))
    with pytest.warns(NoEffectWarning, match=r"each of the 1 sites of Sequential is kept: matches an exclude"):
        antialias(stage(), exclude="*")


def test_include_exclude_and_filter_mapping() -> None:
    model = torchvision.models.resnet18()
    made = plan(model, {"layer2.*": 3, "*": 5}, include=["layer2.*", "layer3.*"], exclude=["*.downsample.*"])
    assert {d.site: d.filt_size for d in made.rewritten} == {"layer2.0.conv1": (3, 3), "layer3.0.conv1": (5, 5)}
    assert {d.site: d.reason for d in made.kept} == {
        "conv1": Reason.NOT_INCLUDED,
        "maxpool": Reason.NOT_INCLUDED,
        "layer2.0.downsample.0": Reason.EXCLUDED,
        "layer3.0.downsample.0": Reason.EXCLUDED,
        "layer4.0.conv1": Reason.NOT_INCLUDED,
        "layer4.0.downsample.0": Reason.EXCLUDED,
    }
    assert plan(model, include="conv1").rewritten[0].site == "conv1"
    assert not plan(model, include="conv?").rewritten


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"include": "layer9.*"}, r"include pattern 'layer9.\*' matches no site of this model; the nearest of its 8"),
        ({"exclude": ["conv9"]}, "exclude pattern 'conv9' matches no site .* are conv1"),
        ({"filt_size": {"layer9": 3}}, "filt_size pattern 'layer9' matches no site"),
        ({"filt_size": {"layer2.*": 0}}, r"filt_size of 'layer2.\*' must be at least 1, got 0"),
        ({"filt_size": {}}, "filt_size is an empty mapping; give a number, or patterns with one each"),
        ({"stem": "no"}, "stem must be True or False, got 'no' of type str"),
        ({"patch_embed": 1}, "patch_embed must be True or False, got 1 of type int"),
        ({"upsample": None}, "upsample must be True or False, got None of type NoneType"),
        ({"filt_size": "4"}, "filt_size must be an integer, got '4' of type str"),
        ({"pad_type": "mirror"}, "pad_type 'mirror' is unknown"),
        ({"include": 3}, "include must be glob patterns"),
        ({"exclude": [3]}, "exclude must hold strings, got 3 of type int"),
        ({"example_inputs": {}}, "example_inputs must be a tensor, a dict that forward takes, or a non-empty tuple"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=words):
        antialias(torchvision.models.resnet18(), **arguments)


def test_things_that_are_no_model() -> None:
    with pytest.raises(ArgumentTypeError, match=r"model must be a torch.nn.Module, got 'resnet18' of type str"):
        antialias("resnet18")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="The model is compiled; pass the module given to"):
        antialias(torch.compile(nn.Linear(3, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(3, 3))
    with pytest.raises(ArgumentTypeError, match="TorchScript"):
        antialias(scripted)


def test_plan_round_trips_and_applies() -> None:
    model = torchvision.models.googlenet(init_weights=False).eval()
    made = plan(model, 3)
    assert Plan.from_json(made.to_json()) == made
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(run(made.apply(model), x), run(antialias(model, 3), x))
    assert torch.equal(run(made.apply(model, form="graph"), x), run(antialias(model, 3, form="graph"), x))
    with pytest.raises(PlanError, match=r"rewrites 'maxpool1', which is not a node of this Sequential"):
        made.apply(stage())
    for text in ("", "{}", '{"version": 1, "decisions": [{"site": "a"}]}', "[1]"):
        with pytest.raises(PlanError, match="no plan of blurify"):
            Plan.from_json(text)
    with pytest.raises(PlanError, match="this plan has version 99"):
        Plan.from_json('{"version": 99, "decisions": []}')


def test_global_average_pool_is_kept() -> None:
    model = stage(nn.AvgPool2d(8))
    assert plan(model, example_inputs=torch.zeros(1, 3, 16, 16)).kept[0].reason is Reason.GLOBAL_POOL
    assert [d.site for d in plan(model, example_inputs=torch.zeros(1, 3, 64, 64)).rewritten] == ["2", "5"]
    with pytest.raises(ArgumentError, match="does not run on the given example_inputs"):
        plan(model, example_inputs=torch.zeros(1, 4, 16, 16))


def test_opaque_leaves_are_listed() -> None:
    class Whole(nn.Module):
        """A module that its owner registered as not to be traced."""

        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(x) if x.sum() > 3 else x

    timm.layers.register_notrace_module(Whole)
    try:
        made = plan(stage(Whole()))
    finally:
        timm.layers._fx._leaf_modules.discard(Whole)
    (opaque,) = made.kept
    assert (opaque.site, opaque.reason) == ("5.pool", Reason.OPAQUE)
    assert opaque.detail == "Whole holds this strided MaxPool2d"


def test_leaves_that_can_be_traced_are_opened() -> None:
    model = randomize_statistics(timm.create_model("test_nfnet")).eval()
    for module in model.modules():
        if getattr(module, "skipinit_gain", None) is not None:
            nn.init.constant_(module.skipinit_gain, 0.5)
    made = plan(model)
    assert "stages.1.0.conv2.conv2d" in [d.site for d in made.rewritten]
    assert not [d for d in made.kept if d.reason is Reason.OPAQUE]
    # The block's in-place scaling has no reader in the graph, and must not be lost.
    assert verify(model, antialias(model), torch.randn(1, 3, 64, 64)).ok


def test_an_unknown_leaf_subclass_is_kept() -> None:
    graph_module = torch.fx.symbolic_trace(nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 3, 2), nn.MaxPool2d(2)))

    class OwnStride(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight, self.bias, 2)

    graph_module.add_submodule("1", OwnStride(3, 3, 3, 2))
    made = plan(graph_module, stem=True)
    assert {d.site: d.reason for d in made.decisions} == {"1": Reason.UNKNOWN_SUBCLASS, "2": None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_meta_device(dtype: torch.dtype) -> None:
    model = stage(nn.MaxPool2d(2)).to(dtype)
    assert verify(model, antialias(model), torch.randn(1, 3, 32, 32, dtype=dtype)).ok
    meta = copy.deepcopy(model).to("meta")
    assert run(antialias(meta), torch.empty(1, 3, 33, 33, dtype=dtype, device="meta")).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("form", ["class", "graph"])
def test_result_copies_pickles_compiles_and_exports(form: str) -> None:
    model = timm.create_model("test_efficientnet", drop_path_rate=0.2).eval()
    converted = antialias(model, form=form)
    x = torch.randn(2, 3, 64, 64)
    expected = run(converted, x)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(run(twin, x), expected)
        assert twin.meta["blurify"] == converted.meta["blurify"]
        assert list(twin.state_dict()) == list(converted.state_dict())
        twin.train()
        assert form == "class" or twin.code == converted.train().code
        converted.eval()
    with torch.no_grad():
        compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        program = torch.export.export(converted, (x,))
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)


def test_every_error_is_one_family() -> None:
    for kind in (ArgumentError, ArgumentTypeError, PlanError, TraceError):
        assert issubclass(kind, BlurifyError)


def test_state_dict_metadata_keeps_the_versions() -> None:
    """MNASNet rebuilds its stem when it loads a state_dict of version 1, which a bare module would write."""
    model = torchvision.models.mnasnet0_5()
    converted = antialias(model)
    assert converted.state_dict()._metadata[""] == model.state_dict()._metadata[""]
    assert converted.state_dict()._metadata.keys() >= model.state_dict()._metadata.keys()


@pytest.mark.parametrize("name", ['a") or print("b', "a'b", "a\nb", "a\\", "a\x00"])
def test_names_that_would_become_code_are_refused(name: str) -> None:
    """A pickle may name a child as it likes, and the name goes into generated code."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2))
    model._modules = {"0": model[0], name: model[1]}
    with pytest.raises(TraceError, match="is no name for a module or parameter"):
        antialias(model)
    assert antialias(nn.ModuleDict({"a-b c": nn.Conv2d(4, 4, 3, 2)})["a-b c"], stem=True)


def test_verify_leaves_a_converted_model_in_train_mode() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = stage()

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.body(x), 0.5, self.training)

    model = Drops().train()
    converted = antialias(model)
    verify(model, converted, torch.randn(2, 3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert converted.training
    assert not torch.equal(converted(x), converted(x))


def test_a_conv_of_stride_4_is_not_rewritten_twice() -> None:
    once = antialias(torchvision.models.alexnet(), stem=True)
    assert not plan(once, stem=True).rewritten


def test_a_global_average_no_wider_than_the_filter_is_kept() -> None:
    model = stage(nn.AvgPool2d(4))
    assert plan(model, 4, example_inputs=torch.zeros(1, 3, 8, 8)).kept[0].reason is Reason.GLOBAL_POOL


def test_a_hooked_conv_is_not_split() -> None:
    model = TwoCalls()
    model.conv.register_forward_hook(lambda module, args, output: output * 3)
    assert verify(model, antialias(model, exclude="conv_1"), torch.randn(1, 3, 40, 40)).ok
