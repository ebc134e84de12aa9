"""What is not rewritten, and the words that say so: each case is a model that a careless pass would change."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

from blurify import NoEffectWarning, antialias, layers, plan, verify
from blurify.errors import ArgumentTypeError, TraceError
from blurify.sites import Kind, Reason
from tests.conftest import run
from tests.core.test_forms import Calls

Function = Callable[[Tensor, Any], Any]


def reasons(model: nn.Module, **options: Any) -> dict[str, Reason | None]:
    """Why each site is kept, None for one that is rewritten."""
    return {d.site: d.reason for d in plan(model, **options).decisions}


def after_stem(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), *modules)


def taps(*shape: int) -> Tensor:
    """A binomial filter of three taps per axis for `shape[0]` channels."""
    one = torch.tensor([0.25, 0.5, 0.25])
    filters = {3: one, 4: torch.outer(one, one), 5: torch.einsum("i,j,k->ijk", one, one, one)}
    return filters[len(shape)].expand(shape).clone()


# Windows, strides and steps that are known only when the model runs.
DYNAMIC: dict[str, Function] = {
    "max stride": lambda x, c: F.max_pool2d(x, 2, x.shape[-1] // 4),
    "max padding": lambda x, c: F.max_pool2d(x, 3, 2, x.shape[-1] // 16),
    "max dilation": lambda x, c: F.max_pool2d(x, 2, 2, 0, x.shape[-1] // 8),
    "max, one axis of two": lambda x, c: F.max_pool2d(x, (2, x.shape[-1] // 4)),
    "avg stride": lambda x, c: F.avg_pool2d(x, 3, stride=x.shape[-1] // 4),
    "avg padding": lambda x, c: F.avg_pool2d(x, 3, 2, padding=x.shape[-1] // 16),
    "avg of one axis": lambda x, c: F.avg_pool2d(x, (x.size(2), 2)),
    "conv dilation": lambda x, c: F.conv2d(x, c.weight, stride=2, dilation=x.shape[-1] // 8),
    "conv stride of one axis": lambda x, c: F.conv2d(x, c.weight, stride=(2, x.shape[-1] // 8)),
    "adaptive avg": lambda x, c: F.adaptive_avg_pool2d(x, x.shape[-1] // 2),
    "adaptive max, of both axes": lambda x, c: F.adaptive_max_pool2d(x, (x.shape[-2] // 2, x.shape[-1] // 2)),
    "slice, one step of two": lambda x, c: x[:, :, ::2, :: x.shape[1] - 2],
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_is_computed_when_the_model_runs_is_kept(name: str) -> None:
    model, x = Calls(DYNAMIC[name]), torch.randn(1, 3, 16, 16)
    (reason,) = reasons(model).values()
    assert reason is Reason.DYNAMIC
    with pytest.warns(NoEffectWarning, match="its window is computed when the model runs"):
        converted = antialias(model)
    assert torch.equal(run(converted, x), run(model, x))


# Steps that are no subsampling of a map: by axis, by sign, by form.
NOT_SPATIAL: dict[str, tuple[Function, int]] = {
    "batch and rows": (lambda x, c: x[::2, :, ::2], 2),
    "rows": (lambda x, c: x[:, :, ::2], 2),
    "columns": (lambda x, c: x[..., ::2], 2),
    "samples of a sound": (lambda x, c: x[:, :, ::2], 1),
    "last of three axes": (lambda x, c: x[..., ::2], 3),
    "three axes": (lambda x, c: x[:, :, ::2, ::2, ::2], 3),
    "three axes, ellipsis": (lambda x, c: x[..., ::2, ::2, ::2], 3),
    "one image of a batch": (lambda x, c: x[0, :, ::2, ::2], 2),
    "some channels": (lambda x, c: x[:, :2, ::2, ::2], 2),
    "a new axis": (lambda x, c: x[:, None, ::2, ::2], 2),
    "aten": (lambda x, c: torch.ops.aten.slice.Tensor(x, 2, 0, 16, 2), 2),
}


@pytest.mark.parametrize("name", NOT_SPATIAL)
def test_steps_that_do_not_subsample_a_map_are_kept(name: str) -> None:
    function, axes = NOT_SPATIAL[name]
    model = Calls(function, axes)
    made = plan(model)
    assert [(d.kind, d.reason) for d in made.decisions] == [(Kind.SLICE, Reason.NOT_SPATIAL)]
    x = torch.randn((2, 3) + (16,) * axes)
    with pytest.warns(NoEffectWarning):
        assert torch.equal(run(antialias(model), x), run(model, x))


@pytest.mark.parametrize("step", [-1, -2])
def test_negative_steps_are_kept(step: int) -> None:
    """Tensors refuse them when the model runs; a trace does not."""
    for function in (lambda x, c: x[..., ::step, ::step], lambda x, c: x[..., ::step, ::2]):
        assert set(reasons(Calls(function)).values()) == {Reason.NOT_SPATIAL}


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c: x[:, :, None:None:None, None:None:None],
        lambda x, c: x[:, :, ::1, ::1],
        lambda x, c: x[::2],
        lambda x, c: x * x.shape[::2][0],
        lambda x, c: torch.ops.aten.slice.Tensor(x, 2, 1),
    ],
    ids=["none", "one", "batch alone", "of a size", "aten"],
)
def test_slices_that_step_over_no_axis_of_a_map_are_no_site(function: Function) -> None:
    assert not reasons(Calls(function))


# Adaptive pools by the size that they are fed; (factor whole?) the reason.
ADAPTIVE: dict[str, tuple[Any, tuple[int, int], Reason]] = {
    "not a whole factor": (nn.AdaptiveAvgPool2d(5), (16, 16), Reason.UNEVEN),
    "whole on one axis": (nn.AdaptiveAvgPool2d((4, 5)), (16, 16), Reason.UNEVEN),
    "one axis stays": (nn.AdaptiveAvgPool2d((4, None)), (16, 16), Reason.UNEVEN),
    "one axis grows": (nn.AdaptiveMaxPool2d((4, 32)), (16, 16), Reason.UNEVEN),
    "one axis to one": (nn.AdaptiveMaxPool2d((1, 5)), (16, 16), Reason.UNEVEN),
    "indices": (nn.AdaptiveMaxPool2d(4, return_indices=True), (16, 16), Reason.RETURNS_INDICES),
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_pools_that_are_kept(name: str) -> None:
    pool, size, reason = ADAPTIVE[name]
    model, x = after_stem(pool), torch.randn(1, 3, *size)
    assert reasons(model, example_inputs=x) == {"2": reason}
    with pytest.warns(NoEffectWarning, match=re.escape(reason.sentence)):
        assert torch.equal(run(antialias(model, example_inputs=x), x), run(model, x))


def test_an_adaptive_pool_of_a_size_that_nobody_knows_is_kept() -> None:
    model = after_stem(nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(64, 2), nn.Unflatten(1, (3, 9)))
    assert reasons(model) == {"2": Reason.UNKNOWN_SIZE}
    with pytest.warns(NoEffectWarning, match="which is unknown \\(pass example_inputs\\)"):
        antialias(model)


class Preprocesses(nn.Module):
    """What people do to an image before the first conv."""

    def __init__(self, before: Function, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.norm = nn.BatchNorm2d(3)
        self.conv = conv or nn.Conv2d(3, 4, 3, 2, 1)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.before(x, self))


STEMS: dict[str, Function] = {
    "nothing": lambda x, m: x,
    "scaled": lambda x, m: x / 255 * 2 - 1,
    "normalised": lambda x, m: (x - m.mean) / m.mean,
    "batch norm": lambda x, m: m.norm(x),
    "cast": lambda x, m: x.float().contiguous(),
    "channels apart and together": lambda x, m: torch.cat([x[:, i].unsqueeze(1) * 2 for i in (2, 1, 0)], 1),
    "chunks": lambda x, m: torch.cat([x.chunk(3, 1)[0] * 2, torch.split(x, 1, 1)[1], x.unbind(1)[2].unsqueeze(1)], 1),
    "one channel for all": lambda x, m: x[:, :1].expand(-1, 3, -1, -1),
}


@pytest.mark.parametrize("name", STEMS)
def test_stems_are_kept_however_the_picture_is_prepared(name: str) -> None:
    model = Preprocesses(STEMS[name]).eval()
    assert reasons(model)["conv"] is Reason.STEM
    assert reasons(model, stem=True)["conv"] is None
    assert reasons(model, include="conv")["conv"] is None
    assert reasons(model, include="c*")["conv"] is Reason.STEM


@pytest.mark.parametrize("name", STEMS)
def test_stems_are_kept_in_an_exported_graph(name: str) -> None:
    model = Preprocesses(STEMS[name]).eval()
    exported = torch.export.export(model, (torch.randn(2, 3, 16, 16),)).module()
    assert reasons(exported) == {"conv": Reason.STEM}


def test_a_conv_behind_one_that_has_learnt_is_no_stem() -> None:
    assert reasons(Preprocesses(lambda x, m: F.avg_pool2d(x, 3, 1, 1))) == {"conv": Reason.STEM}
    assert reasons(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 3, 2, 1))) == {"1": None}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_stems_of_every_rank(axes: int) -> None:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    assert reasons(nn.Sequential(conv(3, 4, 3, 2))) == {"0": Reason.STEM}


PATCHES: dict[str, tuple[nn.Module, Reason | None]] = {
    "patches": (nn.Conv2d(3, 4, 4, 4), Reason.PATCH_EMBED),
    "gaps between patches": (nn.Conv2d(3, 4, 2, 4), Reason.PATCH_EMBED),
    "patches of a video": (nn.Conv3d(3, 4, (2, 4, 4), (2, 4, 4)), Reason.PATCH_EMBED),
    # Overlapping, or of one pixel: a stem as any other.
    "overlapping": (nn.Conv2d(3, 4, 7, 4), Reason.STEM),
    "overlapping on one axis": (nn.Conv2d(3, 4, (4, 7), 4), Reason.STEM),
    "one pixel": (nn.Conv2d(3, 4, 1, 2), Reason.STEM),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patch_embeddings_are_told_from_stems(name: str) -> None:
    conv, reason = PATCHES[name]
    model = nn.Sequential(conv)
    assert reasons(model) == {"0": reason}
    patches = reason is Reason.PATCH_EMBED
    assert reasons(model, stem=True) == {"0": Reason.PATCH_EMBED if patches else None}
    assert reasons(model, patch_embed=True) == {"0": None if patches else Reason.STEM}


# Pools whose window is the whole map, which the size of the input decides.
GLOBAL: dict[str, tuple[Any, tuple[int, ...]]] = {
    "the map": (nn.AvgPool2d(8), (8, 8)),
    "larger than the map": (nn.AvgPool2d(9, padding=2), (7, 7)),
    "not square": (nn.AvgPool2d((8, 4)), (8, 4)),
    "of another stride": (nn.AvgPool2d(7, 2), (7, 7)),
    "with a last column left out": (nn.AvgPool2d(7, 7, ceil_mode=False), (7, 7)),
    "a sound": (nn.AvgPool1d(8), (8,)),
    "a video": (nn.AvgPool3d((2, 7, 7), stride=1), (2, 7, 7)),
    "a video, strided": (nn.AvgPool3d((2, 7, 7)), (2, 7, 7)),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_global_averages_are_kept(name: str) -> None:
    pool, size = GLOBAL[name]
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
    model, x = nn.Sequential(conv(3, 4, 1), pool), torch.randn(1, 3, *size)
    strided = pool.stride != 1
    assert reasons(model, example_inputs=x) == ({"1": Reason.GLOBAL_POOL} if strided else {})
    # Twice as large a map is not covered, so there the same pool is a site.
    larger = torch.randn(1, 3, *(2 * extent + 1 for extent in size))
    assert reasons(model, example_inputs=larger) == ({"1": None} if strided else {})


def test_one_call_kept_keeps_a_conv_that_cannot_be_split() -> None:
    """A parametrized or hooked conv has no function that computes what it does."""

    def hooked(conv: nn.Conv2d) -> nn.Conv2d:
        conv.register_forward_hook(lambda module, args, output: output * 2)
        return conv

    class Twice(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), conv

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(self.stem(x)))

    for make in (
        lambda: hooked(nn.Conv2d(4, 4, 3, 2, 1)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, 2, 1)),
        lambda: nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular"),
    ):
        model = Twice(make())
        assert reasons(model) == {"conv": None, "conv_1": None}
        for kept, other in (("conv", "conv_1"), ("conv_1", "conv")):
            assert reasons(model, exclude=kept) == {kept: Reason.EXCLUDED, other: Reason.SHARED_MODULE}
        with pytest.warns(NoEffectWarning):
            converted = antialias(model, exclude="conv")
        x = torch.randn(1, 3, 20, 20)
        assert torch.equal(run(converted, x), run(model, x))
    # A plain one is split.
    assert reasons(Twice(nn.Conv2d(4, 4, 3, 2, 1)), exclude="conv") == {"conv": Reason.EXCLUDED, "conv_1": None}


def test_unknown_subclasses_are_kept() -> None:
    """A leaf of a class that nobody knows may do anything with the stride that it bears."""
    from torch.ao.nn.qat import Conv2d as TrainedForQuantization
    from torch.ao.quantization import get_default_qat_qconfig

    with warnings.catch_warnings():
        # The observers of torch 2.x warn of arguments that torch itself passes.
        warnings.simplefilter("ignore")
        conv = TrainedForQuantization(4, 4, 3, 2, qconfig=get_default_qat_qconfig("x86"))
    assert reasons(after_stem(conv, nn.MaxPool2d(2))) == {"2": Reason.UNKNOWN_SUBCLASS, "3": None}


class OwnMax(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, 1)


class OwnAvg(nn.AvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, 1)


class OwnTransposed(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x


class OwnAdaptive(nn.AdaptiveAvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return x


class OwnPower(nn.LPPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return x


class OwnResize(nn.Upsample):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale_factor)


@pytest.mark.parametrize(
    ("plain", "own"),
    [
        (nn.LPPool2d(2, 2), OwnPower(2, 2)),
        (nn.Upsample(scale_factor=0.5), OwnResize(scale_factor=0.5)),
        (nn.MaxPool2d(2), OwnMax(2)),
        (nn.AvgPool2d(2), OwnAvg(2)),
        (nn.ConvTranspose2d(4, 4, 2, 2), OwnTransposed(4, 4, 2, 2)),
        (nn.AdaptiveAvgPool2d(4), OwnAdaptive(4)),
    ],
    ids=["power", "resize", "max", "avg", "transposed", "adaptive"],
)
def test_unknown_leaves_that_bear_the_name_of_a_pool_are_listed(plain: nn.Module, own: nn.Module) -> None:
    graph_module = fx.symbolic_trace(after_stem(plain))
    graph_module.add_submodule("2", own)
    x = torch.randn(1, 3, 16, 16)
    assert reasons(graph_module, upsample=True, example_inputs=x) == {"2": Reason.UNKNOWN_SUBCLASS}
    # The tracer looks into a class that it does not know, and sees what it does.
    assert Reason.UNKNOWN_SUBCLASS not in reasons(after_stem(own), upsample=True, example_inputs=x).values()


class OwnUnshuffle(nn.PixelUnshuffle):
    pass


class OwnUnfold(nn.Unfold):
    pass


class OwnFractional(nn.FractionalMaxPool2d):
    pass


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (OwnUnshuffle(2), Reason.ALL_PHASES),
        (OwnUnfold(2, stride=2), Reason.ALL_PHASES),
        (OwnFractional(2, output_ratio=0.5), Reason.RANDOM_WINDOWS),
    ],
    ids=["unshuffle", "unfold", "fractional"],
)
def test_leaves_that_derive_from_what_is_kept_are_listed(leaf: nn.Module, reason: Reason) -> None:
    graph_module = fx.symbolic_trace(after_stem(nn.MaxPool2d(2)))
    graph_module.add_submodule("2", leaf)
    assert reasons(graph_module) == {"2": reason}


def test_a_leaf_of_the_user_holding_strided_modules_is_listed_with_each() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
            return isinstance(m, Whole) or super().is_leaf_module(m, qualified_name)

    model = after_stem(Whole(), nn.MaxPool2d(2))
    made = plan(fx.GraphModule(model, Tracer().trace(model)))
    assert {d.site: d.reason for d in made.decisions} == {
        "3": None,
        "2.body.0": Reason.OPAQUE,
        "2.body.2": Reason.OPAQUE,
    }
    assert [d.detail for d in made.kept] == [
        "Whole holds this strided Conv2d",
        "Whole holds this strided MaxPool2d",
    ]
    # Given as a module, it is seen into.
    assert set(reasons(model).values()) == {None}


def test_patterns_keep_what_they_name() -> None:
    model = after_stem(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2), nn.AvgPool2d(2))
    assert reasons(model, exclude=["2", "4"]) == {"2": Reason.EXCLUDED, "3": None, "4": Reason.EXCLUDED}
    assert reasons(model, include="3") == {"2": Reason.NOT_INCLUDED, "3": None, "4": Reason.NOT_INCLUDED}
    # Who is both is kept.
    assert reasons(model, include=["2", "3"], exclude="3") == {
        "2": None,
        "3": Reason.EXCLUDED,
        "4": Reason.NOT_INCLUDED,
    }
    # No pattern asks for what cannot be.
    indices = after_stem(nn.AdaptiveMaxPool2d(4, return_indices=True))
    x = torch.zeros(1, 3, 16, 16)
    assert reasons(indices, include="2", example_inputs=x) == {"2": Reason.RETURNS_INDICES}


def foreign(module: str, name: str) -> nn.Module:
    """A blur layer as another library has it, that no tracer could look into."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 2, 1) if x.shape[-1] > 3 else x

    kind = type(name, (nn.Module,), {"forward": forward, "__module__": module})
    layer = kind()
    layer.stride, layer.kernel_size = 2, 3
    return layer


def frozen(conv: nn.Module) -> nn.Module:
    conv.weight.data = taps(*conv.weight.shape)
    return conv.requires_grad_(False)


BLURS: dict[str, Callable[[], nn.Module]] = {
    "timm": lambda: timm.layers.BlurPool2d(4, filt_size=5),
    "kornia": lambda: foreign("kornia.filters.blur_pool", "BlurPool2D"),
    "kornia, with a maximum": lambda: foreign("kornia.filters.blur_pool", "MaxBlurPool2D"),
    "antialiased_cnns": lambda: foreign("antialiased_cnns.blurpool", "BlurPool"),
    "ours": lambda: layers.BlurPool2d(4),
    "ours, of one axis": lambda: layers.BlurPool2d(4, stride=(1, 2)),
    "frozen conv": lambda: frozen(nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False)),
    "frozen conv, reflected": lambda: frozen(nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False, padding_mode="reflect")),
}


@pytest.mark.parametrize("name", BLURS)
def test_blurs_of_all_origins_are_kept(name: str) -> None:
    model, x = after_stem(BLURS[name]()), torch.randn(1, 3, 16, 16)
    assert reasons(model, stem=True, patch_embed=True) == {"2": Reason.ALREADY_ANTIALIASED}
    with pytest.warns(NoEffectWarning, match="nothing to do: Sequential is already antialiased"):
        assert torch.equal(run(antialias(model), x), run(model, x))


@pytest.mark.parametrize("axes", [1, 3])
def test_frozen_blurs_of_other_ranks(axes: int) -> None:
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
    model = nn.Sequential(kind(3, 4, 1), frozen(kind(4, 4, 3, 2, 1, groups=4, bias=False)))
    assert reasons(model) == {"1": Reason.ALREADY_ANTIALIASED}


def test_the_averages_that_timm_puts_after_a_conv_as_blurs_are_kept() -> None:
    model = timm.create_model("resnetaa50")
    averages = {site: reason for site, reason in reasons(model).items() if site.endswith(".aa")}
    assert len(averages) == 3
    assert set(averages.values()) == {Reason.ALREADY_ANTIALIASED}
    # Of another name it is a pool as any other.
    assert reasons(after_stem(nn.AvgPool2d(2, 2))) == {"2": None}


def spoiled(change: Callable[[nn.Conv2d], Any]) -> nn.Conv2d:
    conv = frozen(nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False))
    change(conv)
    return conv


# Convs that resemble a stored blur and are none: what a pass that keeps too much would keep.
NO_BLURS: dict[str, Callable[[], nn.Conv2d]] = {
    "trainable": lambda: spoiled(lambda c: c.requires_grad_(True)),
    "a derivative": lambda: spoiled(lambda c: c.weight[:, :, 0].neg_()),
    "of another sum": lambda: spoiled(lambda c: c.weight.mul_(2)),
    "one channel unlike the others": lambda: spoiled(lambda c: c.weight[0].copy_(torch.full((1, 3, 3), 1 / 9))),
    "with a bias": lambda: frozen(nn.Conv2d(4, 4, 3, 2, 1, groups=4)),
    "of one tap": lambda: nn.Conv2d(4, 4, 1, 2, groups=4, bias=False).requires_grad_(False),
    "not of each channel alone": lambda: nn.Conv2d(4, 4, 3, 2, 1, groups=2, bias=False).requires_grad_(False),
}


@pytest.mark.parametrize("name", NO_BLURS)
def test_what_resembles_a_blur_is_a_site(name: str) -> None:
    conv = NO_BLURS[name]()
    if name == "of one tap":
        nn.init.ones_(conv.weight)
    assert reasons(after_stem(conv)) == {"2": None}


# Indices that somebody reads, and no map that could be blurred.
INDICES: dict[str, Function] = {
    "both": lambda x, c: F.max_pool2d(x, 2, return_indices=True),
    "the indices alone": lambda x, c: F.max_pool2d(x, 2, return_indices=True)[1],
    "both, the function of that name": lambda x, c: F.max_pool2d_with_indices(x, 2),
    "aten": lambda x, c: torch.ops.aten.max_pool2d_with_indices.default(x, [2, 2], [2, 2])[1],
}


@pytest.mark.parametrize("name", INDICES)
def test_pools_whose_indices_are_read_alone_are_kept(name: str) -> None:
    model, x = Calls(INDICES[name]), torch.randn(2, 3, 8, 8)
    assert set(reasons(model).values()) == {Reason.RETURNS_INDICES}
    with pytest.warns(NoEffectWarning, match="a pair that is not unpacked"):
        result, expected = run(antialias(model), x), run(model, x)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


class LooksAtValues(nn.Module):
    """No front-end can record what a value decides, and the strided conv cannot stay in a module kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum().item() > 0:  # the line that a message must show
            return self.conv(x)
        return x


def test_control_flow_that_no_front_end_takes_says_where_who_and_what_to_do() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Sequential(LooksAtValues()))
    with pytest.raises(TraceError) as caught:
        antialias(model)
    message = str(caught.value)
    line = LooksAtValues.forward.__code__.co_firstlineno + 1
    assert re.match(r"Sequential cannot be traced in '1\.0', at .+test_refusals\.py:(\d+) `", message)
    assert f"test_refusals.py:{line} `if x.sum().item() > 0:" in message
    # What goes by values is not tried by other front-ends.
    assert "torch.export" not in message
    assert "Move that decision out of forward, or convert the part of the model without it (its " in message
    # Its parts without that decision convert.
    assert antialias(model[0], stem=True).meta["blurify"].rewritten


UNDECIDABLE = """
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        return 1 if x.sum() > 0 else x
"""


@pytest.mark.parametrize("folder", ["blurify", "torch", "torch/nn", "a blurify/torch"])
def test_a_line_is_shown_whatever_its_folder_is_called(tmp_path: Path, folder: str) -> None:
    source = tmp_path / folder / "network.py"
    source.parent.mkdir(parents=True)
    source.write_text(UNDECIDABLE)
    names: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), names)
    with pytest.raises(TraceError, match=re.escape(f"{source}:5 `return 1 if x.sum() > 0 else x`")):
        antialias(names["Net"]())


class WalksADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.conv(sum(self.stem(picture) for name, picture in batch.items() if name.startswith("image")))


def test_a_dict_that_is_walked_needs_an_example() -> None:
    model = WalksADict()
    with pytest.raises(
        TraceError, match=r"WalksADict cannot be traced, at .*test_refusals\.py:\d+ `return self"
    ) as caught:
        antialias(model)
    assert str(caught.value).endswith("If forward takes something else than one image, pass example_inputs.")
    batch = {"image": torch.randn(2, 3, 8, 8), "image_2": torch.randn(2, 3, 8, 8), "label": torch.zeros(2)}
    converted = antialias(model, example_inputs=batch)
    assert [d.site for d in converted.meta["blurify"].rewritten] == ["conv"]
    assert verify(model, converted, batch).ok


def quantized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), torch.ao.nn.quantized.Conv2d(4, 4, 3, 2))


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3, 2)))


def compiled() -> nn.Module:
    return torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3, 2)))


NO_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (scripted, "The model is a TorchScript module, whose Python is gone; pass the original nn.Module."),
    "traced": (
        lambda: torch.jit.trace(nn.Conv2d(3, 4, 3, 2), torch.zeros(1, 3, 8, 8)),
        "The model is a TorchScript module, whose Python is gone; pass the original nn.Module.",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(4, 3, 2)),
        "The model's '0.weight' has no size yet, since its layer is lazy; run the model once first.",
    ),
    "compiled": (compiled, "The model is compiled; pass the module given to torch.compile (its _orig_mod)."),
    "quantized": (quantized, "The model is quantized (at '1'); convert the float model, then quantize that."),
    "a state_dict": (lambda: {"weight": torch.zeros(1)}, "model must be a torch.nn.Module, got {'weight': "),
    "a class": (lambda: torchvision.models.ResNet, "model must be a torch.nn.Module, got <class "),
    "a function": (lambda: torchvision.models.resnet18, "model must be a torch.nn.Module, got <function resnet18 at "),
    "nothing": (lambda: None, "model must be a torch.nn.Module, got None of type NoneType."),
}


@pytest.mark.parametrize("name", NO_MODELS)
@pytest.mark.parametrize("function", [plan, antialias])
def test_what_is_no_model_is_refused_in_words(name: str, function: Callable[[Any], Any]) -> None:
    make, words = NO_MODELS[name]
    with warnings.catch_warnings():
        # TorchScript is deprecated, and people still have models in it.
        warnings.simplefilter("ignore")
        model = make()
    with pytest.raises(ArgumentTypeError, match=f"^{re.escape(words)}"):
        function(model)
