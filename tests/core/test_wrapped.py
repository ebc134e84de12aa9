"""Models of which a part, or the whole, is wrapped: the sites inside are seen, under the names of the `state_dict`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from blurify import antialias, plan, verify
from blurify.sites import Kind, Reason

Wrapper = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def features() -> nn.Sequential:
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
    return nn.Sequential(convs[0], nn.ReLU(), nn.MaxPool2d(2), convs[1], nn.BatchNorm2d(8), nn.ReLU())


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # TorchScript is deprecated, and people still have models in it.
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


WRAPPERS: dict[str, Wrapper] = {
    "parallel": nn.DataParallel,
    "parallel twice": lambda m: nn.DataParallel(nn.DataParallel(m)),
    "distributed": nn.parallel.DistributedDataParallel,
    "averaged": AveragedModel,
    "parallel over compiled": lambda m: nn.DataParallel(nn.Sequential(*m[:3], compiled(m[3:]))),
    "a part in parallel": lambda m: nn.Sequential(nn.DataParallel(m), nn.AdaptiveAvgPool2d(1)),
    "a distributed part": lambda m: nn.Sequential(nn.parallel.DistributedDataParallel(m), nn.Flatten()),
    "a compiled part": lambda m: nn.Sequential(*m[:3], compiled(m[3:])),
}


# The compiler looks whether tensors have gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("keep_class", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_sites_in_wrapped_parts_are_rewritten(name: str, keep_class: bool, process_group: None) -> None:
    model = WRAPPERS[name](features()).eval()
    converted = antialias(model, example_inputs=X, keep_class=keep_class)
    decisions = converted.meta["blurify"].rewritten
    assert [d.kind for d in decisions] == [Kind.MAX, Kind.CONV]
    modules = dict(model.named_modules())
    assert all(d.site in modules and d.landing in modules for d in decisions)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert verify(model, converted, X).ok
    assert all("forward" not in module.__dict__ or hasattr(module, "_orig_mod") for module in model.modules())


def test_a_wrapped_model_gives_what_the_plain_one_gives() -> None:
    model = features().eval()
    expected, result = antialias(model, example_inputs=X)(X), antialias(nn.DataParallel(model), example_inputs=X)(X)
    assert torch.equal(expected, result)


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) * 2


SCRIPTED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "a head": (lambda: scripted(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), []),
    "a function": (lambda: scripted(Pool()), ["2.max_pool2d"]),
    "modules": (lambda: scripted(features()[2:]), ["2.conv2d", "2.max_pool2d"]),
    "two of a kind": (
        lambda: scripted(nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))),
        ["2.avg_pool2d", "2.avg_pool2d_1"],
    ),
    "traced": (lambda: torch.jit.trace(features()[3:].eval(), torch.randn(1, 8, 8, 8)), ["2.convolution"]),
    "quantized": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), dynamic_linear()), []),
}


def dynamic_linear() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.nn.quantized.dynamic.Linear(8, 4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:torch.quantize:UserWarning")
@pytest.mark.parametrize("keep_class", [False, True])
@pytest.mark.parametrize("name", SCRIPTED)
def test_parts_without_python_stay_and_are_listed(name: str, keep_class: bool) -> None:
    make, hidden = SCRIPTED[name]
    model = nn.Sequential(features()[:4], nn.ReLU(), make()).eval()
    converted = antialias(model, example_inputs=X, keep_class=keep_class)
    kept = converted.meta["blurify"].kept
    assert [d.site for d in kept if d.kind is Kind.OPAQUE] == hidden
    assert all(d.reason is Reason.OPAQUE for d in kept)
    assert [d.site for d in converted.meta["blurify"].rewritten] == ["0.2", "0.3"]
    assert verify(model, converted, X).ok


def test_what_is_quantized_for_good_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), torch.ao.nn.quantized.QFunctional())
    with pytest.raises(TypeError, match="The model is quantized"):
        plan(model)
