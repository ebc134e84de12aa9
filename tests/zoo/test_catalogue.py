"""From patterns to names."""

from __future__ import annotations

import pytest
import timm
import torchvision

from blurify.errors import ArgumentError
from blurify.zoo.catalogue import choose


def test_patterns() -> None:
    assert choose(["*"]) == sorted(f"timm:{name}" for name in timm.list_models())
    assert len(choose(["*:*"])) == len(timm.list_models()) + len(torchvision.models.list_models())
    assert choose(["resnet18", "timm:resnet1[08]t", "torchvision:vgg11"]) == [
        *("timm:resnet10t", "timm:resnet18", "torchvision:vgg11"),
    ]
    assert choose(["resnet18", "*:resnet18"]) == ["timm:resnet18", "torchvision:resnet18"]


def test_tags() -> None:
    assert choose(["resnet18.a?_in1k"]) == [f"timm:resnet18.a{n}_in1k" for n in (1, 2, 3)]
    assert choose(["resnet18d"], tag_filter="ra*") == ["timm:resnet18d.ra2_in1k", "timm:resnet18d.ra4_e3600_r224_in1k"]
    assert choose(["resnet18"], pretrained=True) == ["timm:resnet18"]


def test_only_what_has_weights_is_matched() -> None:
    without = set(timm.list_models()) - {name.partition(".")[0] for name in timm.list_pretrained()}
    assert without
    assert not without & {name.partition(":")[2] for name in choose(["*"], pretrained=True)}
    name = min(without)
    with pytest.raises(ArgumentError, match=f"no model with pretrained weights matches '{name}'"):
        choose([name], pretrained=True)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/a/b", "my.module:factory?width=3"])
def test_names_that_no_list_has(name: str) -> None:
    assert choose([name]) == [name]


def test_exclusions() -> None:
    chosen = choose(["resnet1?*", "torchvision:resnet18"], exclude=["timm:*1[04]*", "resnet152*", "resnet101*"])
    assert chosen == ["timm:resnet18", "timm:resnet18d", "torchvision:resnet18"]
    assert choose(["resnet18*"], exclude=["resnet18"]) == ["timm:resnet18d"]


@pytest.mark.parametrize(
    ("patterns", "options", "said"),
    [
        (["resnt18"], {}, "no model matches 'resnt18'; the nearest names are timm:resnet18"),
        (["torchvision:resnt18*"], {}, "no model matches .* the nearest names are torchvision:resnet18"),
        (["qqqqqqq"], {}, r"no model matches 'qqqqqqq'; try a wider pattern, such as resnet\*"),
        ([], {}, "No pattern was given"),
        (["resnet18"], {"exclude": ["resnt"]}, "'resnt' matches none of the 1 models that were chosen"),
        (["resnet18"], {"exclude": ["*"]}, "All 1 models that were chosen are excluded"),
    ],
)
def test_what_matches_nothing_is_said(patterns: list[str], options: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        choose(patterns, **options)
