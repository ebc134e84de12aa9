"""Copies of module trees."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from blurify import antialias
from blurify.graph import tree
from blurify.graph.tree import own_copy


def deeply_copied(model: nn.Module, patch: pytest.MonkeyPatch) -> tuple[nn.Module, list[nn.Module]]:
    seen: list[nn.Module] = []
    original = copy.deepcopy

    def noting(value: Any, memo: Any = None) -> Any:
        seen.extend([value] if isinstance(value, nn.Module) else [])
        return original(value, memo)

    patch.setattr(tree.copy, "deepcopy", noting)
    return own_copy(model, {}), seen


@pytest.mark.parametrize("form", [None, "class"])
def test_modules_of_any_library_are_copied_by_their_attributes(form: str | None, monkeypatch: Any) -> None:
    model = torchvision.models.resnet18()
    model = antialias(model, form=form) if form else model
    twin, seen = deeply_copied(model, monkeypatch)
    assert not seen
    assert [(name, type(m)) for name, m in twin.named_modules()] == [(n, type(m)) for n, m in model.named_modules()]
    tensors = [*model.parameters(), *model.buffers()], [*twin.parameters(), *twin.buffers()]
    assert all(torch.equal(a, b) and a is not b for a, b in zip(*tensors, strict=True))


class Careful(nn.Module):
    """Has a copy made in a way of its own."""

    def __deepcopy__(self, memo: Any) -> Careful:
        twin = Careful()
        twin.copied = True
        return twin


class Reduced(nn.Module):
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "copied": True}


class Cached(nn.Module):
    """Shares a dict, which is empty still, and a list of its own children."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.cache: dict[str, Tensor] = {}
        self.body.cache = self.cache
        self.layers = [self.body[0]]
        self.tied = self.body[0]


@pytest.mark.parametrize("kind", [Careful, Reduced])
def test_what_copies_itself_is_asked(kind: type[nn.Module]) -> None:
    assert own_copy(nn.Sequential(kind()), {})[0].copied


def test_what_modules_share_is_shared_in_the_copy() -> None:
    model = Cached()
    twin = own_copy(model, {})
    assert twin.cache is twin.body.cache
    assert twin.cache is not model.cache
    assert twin.layers[0] is twin.tied is twin.body[0]
    assert twin.tied is not model.tied
