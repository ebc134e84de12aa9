"""The other places where resolution changes: slices, resizes, adaptive pools, patch embeddings, upsampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.layers import BlurAxes, BlurPool2d
from blurify.sites import Kind, Reason
from blurify.tracing.export import export_once
from blurify.tracing.inputs import Inputs
from tests.conftest import run
from tests.core.test_forms import Calls

Function = Callable[[Tensor, Any], Tensor]
aten = torch.ops.aten

SLICES: dict[str, Function] = {
    "ellipsis": lambda x, c: x[..., ::2, ::2].relu(),
    "channels first": lambda x, c: x[:, :, ::2, 1::2].relu(),
    "channels last": lambda x, c: x.permute(0, 2, 3, 1)[:, ::2, ::3].relu(),
    "channels last, all written": lambda x, c: x.permute(0, 2, 3, 1)[:, ::2, ::2, :].relu(),
    "two of four phases": lambda x, c: x[..., ::2, ::2] + x[..., 1::2, 1::2],
}


@pytest.mark.parametrize("name", SLICES)
def test_strided_slices_are_blurred_before(name: str) -> None:
    model = Calls(SLICES[name])
    x = torch.randn(2, 3, 18, 24)
    made = plan(model)
    assert {d.kind for d in made.rewritten} == {Kind.SLICE}
    converted = antialias(model)
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    assert len(verdict.shapes) == len(made.rewritten)
    assert not torch.equal(run(converted, x), run(model, x))
    assert not plan(converted).rewritten


def test_a_blurred_slice_is_the_blur_pool() -> None:
    x = torch.randn(2, 3, 18, 24)
    model = Calls(SLICES["ellipsis"])
    expected = BlurPool2d(4)(model.stem(x)).relu()
    torch.testing.assert_close(run(antialias(model), x), expected)
    last = Calls(SLICES["channels last, all written"])
    last.load_state_dict(model.state_dict())
    torch.testing.assert_close(run(antialias(last), x), expected.permute(0, 2, 3, 1))


def shares_a_slice(x: Tensor, c: Any) -> Tensor:
    rows = x[:, :, ::2]
    return rows[..., ::2] + rows[..., ::2].relu()


def merges_patches(x: Tensor, c: Any) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    return torch.cat([x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]], -1)


SLICES_KEPT: dict[str, tuple[Function, Reason]] = {
    "space to depth": (
        lambda x, c: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
        Reason.ALL_PHASES,
    ),
    "rotary halves": (lambda x, c: torch.stack([x[:, :, :, ::2], x[:, :, :, 1::2]], -1), Reason.ALL_PHASES),
    "one axis": (lambda x, c: x[:, :, ::2], Reason.NOT_SPATIAL),
    "computed step": (lambda x, c: x[:, :, :: x.shape[1] - 2, :: x.shape[1] - 2], Reason.DYNAMIC),
    "after a blur": (lambda x, c: c.blur(x)[..., ::2, ::2], Reason.ALREADY_ANTIALIASED),
}


@pytest.mark.parametrize("name", SLICES_KEPT)
def test_kept_slices(name: str) -> None:
    function, reason = SLICES_KEPT[name]
    model = Calls(function)
    model.inner.add_module("blur", BlurAxes((-2, -1)))
    assert {d.reason for d in plan(model).decisions} == {reason}


@pytest.mark.parametrize("index", [(slice(None, None, 2),) * 2, (slice(None), slice(None, None, 2))])
def test_samples_and_channels_are_no_positions(index: Any) -> None:
    model, x = Calls(lambda x, c: x[index]), torch.zeros(2, 3, 16, 16)
    assert not plan(model, example_inputs=x).decisions
    assert not plan(exported(model, x), example_inputs=x).decisions


def exported(model: nn.Module, x: Tensor) -> nn.Module:
    return export_once(model.eval(), Inputs((x,), {}), strict=False)


EXPORTED_SLICES: dict[str, tuple[Function, Reason | None]] = {
    "ellipsis": (SLICES["ellipsis"], None),
    "channels first": (SLICES["channels first"], None),
    "channels last": (SLICES["channels last"], None),
    "space to depth": (SLICES_KEPT["space to depth"][0], Reason.ALL_PHASES),
    "patch merging": (merges_patches, Reason.ALL_PHASES),
    "two of four phases": (SLICES["two of four phases"], None),
    "channels and rows": (lambda x, c: x.flatten(2)[:, ::2, ::2], Reason.NOT_SPATIAL),
    "one axis": (SLICES_KEPT["one axis"][0], Reason.NOT_SPATIAL),
    "three axes": (lambda x, c: x[:, :, None].expand(-1, -1, 4, -1, -1)[:, :, ::2, ::2, ::2], Reason.NOT_SPATIAL),
    "frames": (lambda x, c: x[:, :, None].expand(-1, -1, 4, -1, -1)[..., ::2, ::2], None),
    "shared": (shares_a_slice, Reason.NOT_SPATIAL),
}


@pytest.mark.parametrize("name", EXPORTED_SLICES)
def test_slices_in_exported_models(name: str) -> None:
    function, reason = EXPORTED_SLICES[name]
    model, x = Calls(function), torch.randn(2, 3, 18, 24)
    program = exported(model, x)
    made = plan(program, example_inputs=x)
    assert {(d.kind, d.reason) for d in made.decisions} == {(Kind.SLICE, reason)}
    if reason is None:
        converted = antialias(program, example_inputs=x)
        verdict = verify(program, converted, x)
        assert verdict.ok, str(verdict)
        assert len(verdict.shapes) == len(made.rewritten)
        torch.testing.assert_close(run(converted, x), run(antialias(model), x))
        assert not plan(converted, example_inputs=x).rewritten
        y = torch.randn(3, 3, 20, 14)
        torch.testing.assert_close(run(converted, y), run(antialias(model), y))


def test_each_slice_of_three_axes_is_listed() -> None:
    function = EXPORTED_SLICES["three axes"][0]
    x = torch.randn(2, 3, 18, 24)
    # Copies of a map are no third axis of positions.
    assert len(plan(exported(Calls(function), x), example_inputs=x).decisions) == 2


def test_slice_operators_of_unknown_rank_or_step_are_kept() -> None:
    def of_unknown_rank(x: Tensor, c: Any) -> Tensor:
        sliced = aten.slice.Tensor(aten.slice.Tensor(x, 2, 0, 9, 2), 3, 0, 9, 2)
        return sliced[:, 99]

    def of_unknown_step(x: Tensor, c: Any) -> Tensor:
        return aten.slice.Tensor(x, 2, 0, 99, x.shape[1] - 2)

    for function, reason in ((of_unknown_rank, Reason.UNKNOWN_SIZE), (of_unknown_step, Reason.DYNAMIC)):
        made = plan(Calls(function))
        assert [d.reason for d in made.decisions] == [reason]
        assert type(made).from_json(made.to_json()) == made


def test_plain_indexing_is_no_site() -> None:
    for function in (
        lambda x, c: x[:, :, 1:-1, 1:-1],
        lambda x, c: x[:, 0],
        lambda x, c: x[..., ::1, ::1],
        lambda x, c: x[None, ..., :3],
    ):
        assert not plan(Calls(function)).decisions


SHRINKING: dict[str, Function] = {
    "bilinear": lambda x, c: F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False),
    "bicubic size": lambda x, c: F.interpolate(x, (9, 8), mode="bicubic"),
    "nearest": lambda x, c: F.interpolate(x, scale_factor=0.25),
    "to a size that is computed": lambda x, c: F.interpolate(x, x.shape[-1] // 2),
    "positional": lambda x, c: F.interpolate(x, None, 0.5),
    "one axis": lambda x, c: F.interpolate(x, size=(18, 6)),
}


@pytest.mark.parametrize("name", SHRINKING)
def test_shrinking_resizes(name: str) -> None:
    model = Calls(SHRINKING[name])
    x = torch.randn(2, 3, 18, 24)
    (decision,) = plan(model, example_inputs=x).rewritten
    assert decision.kind is Kind.RESIZE
    converted = antialias(model, example_inputs=x)
    assert verify(model, converted, x).ok
    assert not torch.equal(run(converted, x), run(model, x))
    assert {d.reason for d in plan(converted, example_inputs=x).decisions} == {Reason.ALREADY_ANTIALIASED}
    if name == "bilinear":
        smooth = F.interpolate(model.stem(x), scale_factor=0.5, mode="bilinear", antialias=True)
        torch.testing.assert_close(run(converted, x), smooth)


OPERATORS: dict[str, tuple[Function, Function]] = {
    "nearest": (
        lambda x, c: aten.upsample_nearest2d.vec(x, None, [0.5, 0.5]),
        lambda x, c: F.interpolate(x, scale_factor=0.5),
    ),
    "nearest by size": (
        lambda x, c: aten.upsample_nearest2d.default(x, [9, 8]),
        lambda x, c: F.interpolate(x, (9, 8)),
    ),
    "exact": (
        lambda x, c: aten._upsample_nearest_exact2d.vec(x, [7, 8], None),
        lambda x, c: F.interpolate(x, (7, 8), mode="nearest-exact"),
    ),
    "bilinear": (
        lambda x, c: aten.upsample_bilinear2d.vec(x, None, False, [0.4, 0.5]),
        lambda x, c: F.interpolate(x, scale_factor=(0.4, 0.5), mode="bilinear"),
    ),
    "bilinear by size and factors": (
        lambda x, c: aten.upsample_bilinear2d.default(x, [7, 12], False, 0.4, 0.5),
        lambda x, c: F.interpolate(x, scale_factor=(0.4, 0.5), mode="bilinear"),
    ),
    "bicubic": (
        lambda x, c: aten.upsample_bicubic2d.vec(x, [9, 8], True, None),
        lambda x, c: F.interpolate(x, (9, 8), mode="bicubic", align_corners=True),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_resize_operators_are_the_functions(name: str) -> None:
    """What `torch.export` makes of `F.interpolate` is planned and rewritten as that is."""
    exported, function = (Calls(form) for form in OPERATORS[name])
    function.load_state_dict(exported.state_dict())
    x = torch.randn(2, 3, 18, 24)
    planned = [[(d.kind, d.stride) for d in plan(m, example_inputs=x).rewritten] for m in (exported, function)]
    assert planned[0] == planned[1] != []
    converted = antialias(exported, example_inputs=x)
    assert verify(exported, converted, x).ok
    torch.testing.assert_close(run(converted, x), run(antialias(function, example_inputs=x), x))


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizes_of_other_ranks(axes: int, mode: str) -> None:
    mode = "trilinear" if (mode, axes) == ("linear", 3) else mode
    model = Calls(lambda x, c: F.interpolate(x, scale_factor=0.5, mode=mode), axes)
    x = torch.randn(2, 3, *(9, 12, 8)[:axes])
    (decision,) = plan(model, example_inputs=x).rewritten
    assert decision.stride == (2,) * axes
    converted = antialias(model, example_inputs=x)
    assert verify(model, converted, x).ok
    assert not torch.equal(run(converted, x), run(model, x))


def test_adaptive_pools_in_an_exported_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d(4))
    x = torch.randn(2, 3, 16, 16)
    program = export_once(model.eval(), Inputs((x,), {}), strict=False)
    assert [d.stride for d in plan(program, example_inputs=x).rewritten] == [(4, 4)]
    torch.testing.assert_close(run(antialias(program, example_inputs=x), x), run(antialias(model, example_inputs=x), x))


def test_a_resize_in_an_exported_model() -> None:
    """A size that is computed from another is an argument still."""
    model = Calls(lambda x, c: F.interpolate(F.interpolate(x, x.shape[-1] // 2), scale_factor=2.0))
    x = torch.randn(2, 3, 16, 16)
    program = export_once(model.eval(), Inputs((x,), {}), strict=False)
    made = plan(program, example_inputs=x, upsample=True)
    assert [d.kind for d in made.rewritten] == [Kind.RESIZE, Kind.UPSAMPLE]
    converted = antialias(program, example_inputs=x, upsample=True)
    assert verify(program, converted, x).ok
    y = torch.randn(3, 3, 20, 24)
    torch.testing.assert_close(run(converted, y), run(antialias(model, example_inputs=x, upsample=True), y))


@pytest.mark.parametrize("module", [nn.Upsample(scale_factor=0.5), nn.UpsamplingBilinear2d(scale_factor=0.5)], ids=str)
def test_a_module_that_shrinks_is_rewritten(module: nn.Module) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), module), torch.randn(2, 3, 18, 16)
    assert [(d.site, d.kind) for d in plan(model).rewritten] == [("1", Kind.RESIZE)]
    converted = antialias(model)
    assert verify(model, converted, x).ok
    assert not torch.allclose(run(converted, x), run(model, x))


RESIZES_KEPT: dict[str, tuple[Function, Reason]] = {
    "antialiased": (
        lambda x, c: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
        Reason.ALREADY_ANTIALIASED,
    ),
    "area": (lambda x, c: F.interpolate(x, scale_factor=0.5, mode="area"), Reason.ALREADY_ANTIALIASED),
    "antialiased operator": (
        lambda x, c: aten._upsample_bilinear2d_aa.vec(x, [8, 8], False, None),
        Reason.ALREADY_ANTIALIASED,
    ),
    "antialiased bicubic operator": (
        lambda x, c: aten._upsample_bicubic2d_aa.default(x, [8, 8], False),
        Reason.ALREADY_ANTIALIASED,
    ),
    "growing operator": (lambda x, c: aten.upsample_nearest2d.vec(x, None, [2.0, 2.0]), Reason.UPSAMPLING),
    "to an unknown size": (lambda x, c: F.interpolate(x, x.shape[-1] // 2)[:, 99], Reason.UNKNOWN_SIZE),
}


@pytest.mark.parametrize("name", RESIZES_KEPT)
def test_kept_resizes(name: str) -> None:
    function, reason = RESIZES_KEPT[name]
    assert [d.reason for d in plan(Calls(function)).decisions] == [reason]


def test_enlarging_bilinear_is_no_site() -> None:
    for function in (
        lambda x, c: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x, c: F.interpolate(x.relu(), x.shape[-1] * 2, mode="bilinear"),
        lambda x, c: aten.upsample_bilinear2d.vec(x, None, False, [2.0, 2.0]),
    ):
        assert not plan(Calls(function)).decisions
    assert not plan(
        Calls(lambda x, c: F.interpolate(x, 32, mode="bilinear")), example_inputs=torch.zeros(1, 3, 8, 8)
    ).decisions


UPSAMPLING: dict[str, tuple[Function, nn.Module]] = {
    "nearest": (lambda x, c: F.interpolate(x, scale_factor=2.0), nn.Identity()),
    "nearest by size": (lambda x, c: F.interpolate(x, (18, 16)), nn.Identity()),
    "operator": (lambda x, c: aten.upsample_nearest2d.vec(x, [18, 16], None), nn.Identity()),
    "module": (lambda x, c: c.up(x), nn.Upsample(scale_factor=2)),
    "nearest module": (lambda x, c: c.up(x), nn.UpsamplingNearest2d(scale_factor=2)),
    "transposed": (lambda x, c: c.up(x), nn.ConvTranspose2d(4, 4, 2, 2)),
}


@pytest.mark.parametrize("name", UPSAMPLING)
def test_upsampling_is_blurred_on_request(name: str) -> None:
    function, module = UPSAMPLING[name]
    model = Calls(function)
    model.inner.add_module("up", module)
    x = torch.randn(2, 3, 9, 8)
    assert [d.reason for d in plan(model, example_inputs=x).decisions] == [Reason.UPSAMPLING]
    converted = antialias(model, upsample=True, example_inputs=x, form="graph")
    assert verify(model, converted, x).ok
    torch.testing.assert_close(run(converted, x), BlurPool2d(4, stride=1)(run(model, x)))
    again = plan(converted, upsample=True, example_inputs=x)
    assert next(d.reason for d in again.decisions) is Reason.ALREADY_ANTIALIASED


ADAPTIVE = {
    "avg": nn.AdaptiveAvgPool2d(4),
    "max": nn.AdaptiveMaxPool2d((4, 3)),
    "kept axis": nn.AdaptiveAvgPool2d((4, None)),
}


@pytest.mark.parametrize("name", ["avg", "max"])
def test_adaptive_pools_of_a_whole_factor(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ADAPTIVE[name])
    x = torch.randn(2, 3, 16, 12)
    (decision,) = plan(model, example_inputs=x).rewritten
    assert decision.stride == (4, 3 if name == "avg" else 4)
    converted = antialias(model, example_inputs=x)
    assert verify(model, converted, x).ok
    assert not torch.equal(run(converted, x), run(model, x))
    # At a size that is no multiple it does what the adaptive pool does.
    y = torch.randn(2, 3, 17, 13)
    assert torch.equal(run(converted, y), run(model, y))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Avg", "Max"])
def test_adaptive_pools_of_one_to_three_axes(kind: str, axes: int) -> None:
    conv, pool = getattr(nn, f"Conv{axes}d")(3, 4, 1), getattr(nn, f"Adaptive{kind}Pool{axes}d")(3)
    model, x = nn.Sequential(conv, pool), torch.randn((2, 3) + (6,) * axes)
    (decision,) = plan(model, example_inputs=x).rewritten
    assert decision.stride == (2,) * axes
    assert verify(model, antialias(model, example_inputs=x), x).ok


def unpacks_both(x: Tensor, c: Any) -> Tensor:
    values, _ = c.pool(x)
    return values


ADAPTIVE_PAIRS: dict[str, Function] = {
    "operator": lambda x, c: aten.adaptive_max_pool2d.default(x, [4, 4])[0].relu(),
    "function": lambda x, c: F.adaptive_max_pool2d(x, 4, return_indices=True)[0].relu(),
    "module": lambda x, c: c.pool(x)[0].relu(),
    "both unpacked": unpacks_both,
}


@pytest.mark.parametrize("name", ADAPTIVE_PAIRS)
def test_adaptive_pools_whose_indices_are_not_read(name: str) -> None:
    model = Calls(ADAPTIVE_PAIRS[name])
    model.inner.add_module("pool", nn.AdaptiveMaxPool2d(4, return_indices=True))
    x = torch.randn(2, 3, 16, 12)
    (decision,) = plan(model, example_inputs=x).decisions
    assert (decision.kind, decision.reason, decision.stride) == (Kind.MAX, None, (4, 3))
    converted = antialias(model, example_inputs=x)
    assert verify(model, converted, x).ok
    assert not torch.equal(run(converted, x), run(model, x))
    y = torch.randn(2, 3, 17, 13)
    assert torch.equal(run(converted, y), run(model, y))


def test_other_adaptive_pools() -> None:
    x = torch.randn(2, 3, 18, 12)
    for pool, reason in (
        (nn.AdaptiveAvgPool2d(4), Reason.UNEVEN),
        (ADAPTIVE["kept axis"], Reason.UNEVEN),
    ):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), pool)
        assert [d.reason for d in plan(model, example_inputs=x).decisions] == [reason]
    for indices in (
        lambda x, c: F.adaptive_max_pool2d(x, 3, return_indices=True)[1].float(),
        lambda x, c: aten.adaptive_max_pool2d.default(x, [3, 3])[1].float(),
    ):
        assert [d.reason for d in plan(Calls(indices), example_inputs=x).decisions] == [Reason.RETURNS_INDICES]
    for pool in (nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((18, 12)), nn.AdaptiveAvgPool2d((None, None))):
        assert not plan(nn.Sequential(nn.Conv2d(3, 4, 1), pool), example_inputs=x).decisions
    # A model that does not run at the assumed size.
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(7, 1))
    assert [d.reason for d in plan(model).decisions] == [Reason.UNKNOWN_SIZE]


def test_patches_of_a_prepared_picture_are_patches() -> None:
    """CrossViT cuts the image resized into patches; what was learnt before makes it a map."""
    decisions = plan(timm.create_model("crossvit_9_240")).decisions
    assert [(d.site, d.reason) for d in decisions] == [(f"patch_embed.{i}.proj", Reason.PATCH_EMBED) for i in (0, 1)]
    cases = (
        (lambda x: F.max_pool2d(x, 3, 1), Reason.PATCH_EMBED),
        (nn.BatchNorm2d(3), Reason.PATCH_EMBED),
        (nn.Conv2d(3, 3, 3), None),
    )
    for before, reason in cases:
        model = Calls(lambda x, c: c(x))
        model.stem = before if isinstance(before, nn.Module) else nn.Identity()
        model.inner = nn.Conv2d(3, 4, 4, 4)
        if not isinstance(before, nn.Module):
            model.function = lambda x, c, before=before: c(before(x))
        assert [d.reason for d in plan(model).decisions if d.site == "inner"] == [reason]


def test_patch_embeddings() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64)
    assert [(d.site, d.reason) for d in plan(vit).decisions] == [("patch_embed.proj", Reason.PATCH_EMBED)]
    assert not plan(vit, stem=True).rewritten
    x = torch.randn(1, 3, 64, 64)
    for options in ({"patch_embed": True}, {"include": "patch_embed.proj"}):
        assert verify(vit, antialias(vit, **options), x).ok

    class Tokens(nn.Module):
        """A transformer's spatial reduction: tokens to map, patches, tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.reduce = nn.Conv2d(8, 8, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.reduce(x.transpose(1, 2).reshape(1, 8, 4, 4)).flatten(2)

    assert [d.reason for d in plan(Tokens()).decisions] == [Reason.PATCH_EMBED]


def test_downsampling_convs_that_cut_a_map_are_rewritten() -> None:
    """ConvNeXt's, after a norm that timm has in one node and torchvision between two permutes."""
    for model, stem in (
        (timm.create_model("convnext_atto"), "stem.0"),
        (torchvision.models.convnext_tiny(), "features.0.0"),
    ):
        made = plan(model)
        assert [(d.site, d.reason) for d in made.kept] == [(stem, Reason.PATCH_EMBED)]
        assert len(made.rewritten) == 3
