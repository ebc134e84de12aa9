"""How much of a blur: at 0 the original itself, at 1 what there is without the word, in between what the taps say."""

from __future__ import annotations

import copy
import io
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import blurify
from blurify import antialias, plan, verify
from blurify.errors import ArgumentError, ArgumentTypeError, NoEffectWarning, PlanError
from blurify.filters import Filter, binomial_taps
from blurify.layers import (
    AVG_BLUR_POOLS,
    AdaptiveAvgBlurPool2d,
    AdaptiveMaxBlurPool2d,
    AntialiasedResize,
    AvgBlurPool2d,
    BlurPool2d,
    LpBlurPool2d,
    MaxBlurPool2d,
    SameBlurPool2d,
)
from blurify.measure.cost import cost
from blurify.sites import Reason
from tests.conftest import randomize_statistics, relative_error, run, tiered


@pytest.mark.parametrize("size", range(1, 8))
def test_taps_go_from_the_position_itself_to_the_binomial(size: int) -> None:
    assert Filter("binomial", size, 1.0).taps() == binomial_taps(size)
    assert Filter("binomial", size, 0.0).taps() == (1.0,)
    taps = Filter("binomial", size, 0.25).taps()
    assert sum(taps) == pytest.approx(1)
    for k, (tap, whole) in enumerate(zip(taps, binomial_taps(size), strict=True)):
        # As many taps lie before the position itself as are padded there.
        assert tap == pytest.approx(0.25 * whole + 0.75 * (k == (size - 1) // 2))


# On odd maps `ceil_mode` pools (squeezenet), SAME convs (tf_efficientnet_lite0) and averages (resnet26d) end unlike.
NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(),
    "tf_efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "resnet26d": lambda: timm.create_model("resnet26d"),
}


# Of the others, the averages of resnet26d alone have what these have not.
EVERYDAY = ("squeezenet1_1", "tf_efficientnet_lite0")
CASES = [("resnet18", 3), *((name, 4) for name in NETWORKS)]


@pytest.mark.parametrize("case", tiered(CASES, ("resnet18", 3), ("squeezenet1_1", 4), ("tf_efficientnet_lite0", 4)))
def test_at_a_strength_of_0_the_network_is_the_original(case: tuple[str, int]) -> None:
    name, filt_size = case
    model = randomize_statistics(NETWORKS[name]())
    x = torch.randn(2, 3, 75, 66)
    expected = run(model, x)
    made = plan(model, filt_size)
    with pytest.warns(NoEffectWarning, match="a strength of 0 asks for no blur here"):
        smooth = antialias(model, filt_size, strength=0)
    asked = {decision.site for decision in made.rewritten}
    assert {d.site for d in smooth.meta["blurify"].kept if d.reason is Reason.NO_BLUR} == asked
    assert [(d.site, d.reason) for d in made.kept] == [
        (d.site, d.reason) for d in smooth.meta["blurify"].kept if d.site not in asked
    ]
    assert torch.equal(run(smooth, x), expected)
    # A graph may let go of a map before the model's own code does.
    with pytest.warns(NoEffectWarning):
        assert cost(smooth, x) == cost(antialias(model, exclude=list(asked)), x)
    assert cost(smooth, x).macs == cost(model, x).macs
    assert relative_error(expected, run(antialias(model, filt_size, strength=0.25), x)) > 1e-6


@pytest.mark.parametrize("name", tiered(NETWORKS, *EVERYDAY))
def test_a_plan_of_before_such_sites_were_kept_is_carried_out(name: str) -> None:
    model = randomize_statistics(NETWORKS[name]()).double()
    text = plan(model, 4, strength=0.5).to_json().replace('"strength": 0.5', '"strength": 0.0')
    old = blurify.Plan.from_json(text)
    assert {decision.strength for decision in old.rewritten} == {0.0}
    x = torch.randn(2, 3, 75, 66, dtype=torch.float64)
    expected, smooth = run(model, x), old.apply(model, optimize=False)
    # A conv at another stride may add up in another order.
    assert relative_error(expected, run(smooth, x)) < 1e-12
    assert torch.equal(run(smooth, x), run(antialias(model, 1, optimize=False), x))


def test_sites_of_no_strength_cost_what_they_did() -> None:
    model, x = randomize_statistics(torchvision.models.resnet18()).eval(), torch.randn(1, 3, 96, 96)
    only = antialias(model, 3, strength={"layer4.*": 0.5, "*": 0})
    assert {d.site for d in only.meta["blurify"].rewritten} == {"layer4.0.conv1", "layer4.0.downsample.0"}
    assert cost(only, x) == cost(antialias(model, 3, strength=0.5, include="layer4.*"), x)
    assert only.get_submodule("layer3.0.conv1").stride == (2, 2)
    assert only.get_submodule("maxpool") is not model.maxpool
    assert type(only.get_submodule("maxpool")) is nn.MaxPool2d
    verdict = verify(model, only, x)
    assert verdict.ok, str(verdict)
    assert [shape.site for shape in verdict.shapes] == ["layer4.0.conv1", "layer4.0.downsample.0"]


def test_a_second_run_blurs_what_the_first_was_asked_not_to() -> None:
    model, x = randomize_statistics(torchvision.models.resnet18()).eval(), torch.randn(1, 3, 64, 64)
    once = antialias(model, 3, strength={"layer3.*": 0})
    with pytest.warns(NoEffectWarning, match=r"asks for no blur here.*already antialiased"):
        again = antialias(once, 3, strength=0)
    assert again.meta["blurify"] == once.meta["blurify"]
    assert torch.equal(run(again, x), run(once, x))
    whole = antialias(once, 3)
    assert relative_error(run(antialias(model, 3), x), run(whole, x)) < 1e-6
    assert whole.meta["blurify"] == plan(model, 3)


def test_what_takes_its_reason_first_keeps_it() -> None:
    made = plan(torchvision.models.resnet18(), strength=0, exclude="layer2.*", include="layer*")
    reasons = {d.site: d.reason for d in made.decisions}
    assert reasons["conv1"] is reasons["maxpool"] is Reason.NOT_INCLUDED
    assert reasons["layer2.0.conv1"] is Reason.EXCLUDED
    assert reasons["layer3.0.conv1"] is Reason.NO_BLUR
    growing = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2))
    assert [d.reason for d in plan(growing, strength=0, upsample=True).decisions] == [Reason.NO_BLUR]
    assert [d.reason for d in plan(growing, strength=0).decisions] == [Reason.UPSAMPLING]


@pytest.mark.parametrize("filt_size", [3, 4])
def test_at_a_strength_of_1_nothing_is_new(filt_size: int) -> None:
    model = randomize_statistics(torchvision.models.resnet18())
    x = torch.randn(1, 3, 65, 64)
    assert torch.equal(run(antialias(model, filt_size), x), run(antialias(model, filt_size, strength=1.0), x))
    assert plan(model, filt_size) == plan(model, filt_size, strength={"*": 1})
    assert "strength" not in plan(model, filt_size).to_json()
    layer = BlurPool2d(filt_size=filt_size)
    taps = torch.tensor(binomial_taps(filt_size), dtype=torch.float64)
    assert torch.equal(layer.filt[0, 0], (taps[:, None] * taps).float())


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (70, 70)], ids=["one matrix", "one an axis", "depthwise"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("filt_size", [3, 4])
def test_between_them_the_taps_of_each_axis_are_mixed(
    size: tuple[int, int], channels_last: bool, filt_size: int
) -> None:
    x = torch.randn(2, 5, *size)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    taps = torch.tensor(Filter("binomial", filt_size, 0.3).taps())
    padded = F.pad(x, ((filt_size - 1) // 2, filt_size // 2) * 2, mode="reflect")
    expected = F.conv2d(padded, (taps[:, None] * taps).expand(5, 1, -1, -1), stride=2, groups=5)
    torch.testing.assert_close(BlurPool2d(filt_size=filt_size, strength=0.3)(x), expected, rtol=1e-5, atol=1e-6)


POOLED = {
    "average": (lambda **given: AvgBlurPool2d(3, 2, 1, filt_size=4, **given), lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "ceil": (
        lambda **given: AvgBlurPool2d(2, 2, 0, True, False, filt_size=4, **given),
        lambda x: F.avg_pool2d(x, 2, 2, 0, True, False),
    ),
    "wider than the filter": (
        lambda **given: AvgBlurPool2d(5, 2, filt_size=3, **given),
        lambda x: F.avg_pool2d(x, 5, 2),
    ),
    "divisor": (
        lambda **given: AvgBlurPool2d(2, 2, divisor_override=3, filt_size=4, **given),
        lambda x: F.avg_pool2d(x, 2, 2, divisor_override=3),
    ),
    "adaptive average": (lambda **given: AdaptiveAvgBlurPool2d(5, **given), lambda x: F.adaptive_avg_pool2d(x, 5)),
    "adaptive maximum": (lambda **given: AdaptiveMaxBlurPool2d(5, **given), lambda x: F.adaptive_max_pool2d(x, 5)),
    "power": (lambda **given: LpBlurPool2d(2, 3, 2, **given), lambda x: F.lp_pool2d(x, 2, 3, 2)),
    "largest": (
        lambda **given: LpBlurPool2d(float("inf"), 3, 2, **given),
        lambda x: F.max_pool2d(x.abs(), 3, 2),
    ),
    "bilinear": (
        lambda **given: lambda x: AntialiasedResize(**given)(x, scale_factor=0.4, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=0.4, mode="bilinear"),
    ),
    "nearest": (
        lambda **given: lambda x: AntialiasedResize(**given)(x, scale_factor=0.4),
        lambda x: F.interpolate(x, scale_factor=0.4),
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_what_replaces_an_op_with_an_output_mixes_the_two(name: str) -> None:
    make, op = POOLED[name]
    x = torch.rand(2, 3, 25, 25, dtype=torch.float64)
    plain, whole = op(x), make()(x)
    assert relative_error(plain, whole) > 1e-3
    torch.testing.assert_close(make(strength=0.0)(x), plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(make(strength=0.25)(x), 0.75 * plain + 0.25 * whole, rtol=1e-12, atol=1e-12)


def test_same_padding_keeps_its_grid() -> None:
    for size in (15, 16, 17):
        x = torch.randn(1, 2, size, size)
        expected = SameBlurPool2d(5, 3, filt_size=1)(x)
        for filt_size in (3, 4):
            assert torch.equal(SameBlurPool2d(5, 3, filt_size=filt_size, strength=0.0)(x), expected)
            weak = SameBlurPool2d(5, 3, filt_size=filt_size, strength=1e-6)(x)
            torch.testing.assert_close(weak, expected, rtol=1e-4, atol=1e-4)


def test_a_weaker_blur_folds_more() -> None:
    model = randomize_statistics(torchvision.models.resnet18()).eval()
    pictures = torch.randn(2, 3, 64, 64)
    from blurify.measure.aliasing import folded_energy

    whole = folded_energy(antialias(model, 3), pictures)["maxpool"]
    weak = [folded_energy(antialias(model, 3, strength=s), pictures)["maxpool"][:, 1] for s in (0.3, 0.7)]
    found = [whole[:, 0], *weak, whole[:, 1]]
    assert all(bool((weaker > stronger).all()) for weaker, stronger in pairwise(found))


@pytest.mark.parametrize("covered", [True, False])
def test_the_response_of_a_mixed_average_is_its_filters(covered: bool) -> None:
    from blurify.measure.aliasing import response

    layer = AVG_BLUR_POOLS[2](2 if covered else 5, 1, filt_size=3, pad_type="circular", strength=0.4)
    impulse = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    impulse[..., 8, 8] = 1
    # At stride 1 and with a border that closes, a layer is its filter.
    padded = F.pad(impulse, (4,) * 4, mode="circular")
    given = torch.fft.fftn(layer(padded), s=(24, 24), dim=(2, 3)).abs()[0, 0]
    torch.testing.assert_close(given, response(layer, torch.Size([24, 24])), rtol=1e-9, atol=1e-9)


def test_patterns_choose_and_plans_keep() -> None:
    model = torchvision.models.resnet18()
    made = plan(model, 3, strength={"layer2.*": 0.3, "layer3.*": 0})
    by_site = {decision.site: decision.strength for decision in made.rewritten}
    assert by_site["layer2.0.conv1"] == 0.3
    assert "layer3.0.conv1" not in by_site
    assert by_site["layer4.0.conv1"] == by_site["maxpool"] == 1
    assert blurify.Plan.from_json(made.to_json()) == made
    assert any(line.split()[:5] == ["layer2.0.conv1", "conv", "2", "rewrite", "3"] for line in str(made).splitlines())
    assert "3 at 0.3 " in str(made)
    assert "a strength of 0 asks for no blur here" in str(made)
    smooth = made.apply(model, form="graph")
    assert smooth.get_submodule("layer2.0.conv1_blur").strength == 0.3
    assert verify(model.eval(), antialias(model, 3, strength={"layer2.*": 0.3, "layer3.*": 0})).ok


@pytest.mark.parametrize("value", ['"0.5"', "true", "null", "-0.1", "1.5", "[0.5]", "1e999"])
def test_a_plan_of_another_strength_is_refused(value: str) -> None:
    text = (
        plan(torchvision.models.resnet18(), strength=0.5).to_json().replace('"strength": 0.5', f'"strength": {value}')
    )
    with pytest.raises(PlanError, match=r"strength must be (a number )?from 0") as caught:
        blurify.Plan.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.5, "strength must be from 0 (no blur) to 1 (the whole blur), got 1.5."),
        (float("nan"), "strength must be from 0 (no blur) to 1 (the whole blur), got nan."),
        ({"*": -1}, "strength must be from 0 (no blur) to 1 (the whole blur), got -1."),
        ({"layer1.*": 2}, "strength of 'layer1.*' must be from 0"),
        ({"layer9.*": 0.5}, "strength pattern 'layer9.*' matches no site"),
        ({}, "strength is an empty mapping; give a number, or patterns with one each."),
    ],
)
def test_other_strengths_are_refused(value: Any, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        antialias(torchvision.models.resnet18(), strength=value)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", ["0.5", True, None, {"*": "1"}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="strength must be a number from 0 to 1"):
        plan(torchvision.models.resnet18(), strength=value)


class Old(nn.Module):
    """Two averages of one map, for what layers share and how they are pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.one, self.two = nn.AvgPool2d(2), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.one(x) + 2 * self.two(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_layers_of_before_there_were_strengths_are_whole() -> None:
    layer = AvgBlurPool2d(2, 2, filt_size=3)
    x = torch.randn(1, 2, 9, 9)
    expected = layer(x)
    old = copy.copy(layer.__dict__)
    del old["strength"]
    again = AvgBlurPool2d.__new__(AvgBlurPool2d)
    again.__setstate__(old)
    again = pickle.loads(pickle.dumps(again))
    assert again.strength == 1.0
    assert torch.equal(again(x), expected)
    assert relative_error(expected, torch.jit.script(again)(x)) < 1e-5


def test_files_keep_it(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 64, 64)
    model = timm.create_model("test_resnet").eval()
    smooth = antialias(model, 3, strength={"layer3.*": 0.25, "*": 0.75})
    blurify.save(smooth, tmp_path / "net.pt", arch="timm:test_resnet")
    assert torch.equal(run(blurify.load(tmp_path / "net.pt"), x), run(smooth, x))
    buffer = io.BytesIO()
    torch.save(smooth, buffer)
    buffer.seek(0)
    assert torch.equal(run(torch.load(buffer, weights_only=False), x), run(smooth, x))
    assert not any("filt" in name for name in smooth.state_dict())


def test_a_kept_class_has_it_too() -> None:
    x = torch.randn(1, 3, 64, 64)
    model = timm.create_model("test_resnet").eval()
    some = antialias(model, 3, strength={"layer3.*": 0, "*": 0.4}, keep_class=True)
    assert some.meta["blurify"] == plan(model, 3, strength={"layer3.*": 0, "*": 0.4})
    assert some.get_submodule("layer3.0.conv2").stride == model.get_submodule("layer3.0.conv2").stride
    assert verify(model, some).ok
    kept = antialias(model, 3, strength=0.4, keep_class=True)
    assert torch.equal(run(kept, x), run(antialias(model, 3, strength=0.4, optimize=False), x))
    assert verify(model, kept).ok


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_it_compiles_to_programs() -> None:
    model, x = Old().eval(), torch.randn(1, 3, 17, 16)
    smooth = antialias(model, 3, strength=0.5)
    assert relative_error(run(smooth, x), torch.export.export(smooth, (x,)).module()(x).detach()) < 1e-5
    layer = MaxBlurPool2d(3, 2, 1, strength=0.5)
    assert relative_error(layer(x), torch.jit.script(layer)(x)) < 1e-5
    average = AvgBlurPool2d(3, 2, 1, strength=0.5)
    assert relative_error(average(x), torch.jit.script(average)(x)) < 1e-5
    assert "strength=0.5" in repr(layer)


def test_a_filter_that_lost_its_storage_is_made_anew() -> None:
    layer = BlurPool2d(filt_size=3, strength=0.5)
    expected = layer.filt.clone()
    empty = layer.to("meta").to_empty(device="cpu")
    assert torch.equal(empty.filt, expected)
