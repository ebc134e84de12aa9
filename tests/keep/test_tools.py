"""The tools that people use on models take one that kept its class."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from timm.models import checkpoint_seq, model_parameters
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from blurify import antialias
from blurify.graph.hosts import BlurWrapper
from tests.conftest import randomize_statistics, relative_error, run

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([3, 5])


def converted() -> Any:
    torch.manual_seed(0)
    model = randomize_statistics(timm.create_model("test_resnet", num_classes=10))
    return antialias(model.eval(), keep_class=True)


def trained_once(model: nn.Module, trained: nn.Module | None = None) -> Tensor:
    """What the model gives after a step of training, taken through `trained`, which may wrap it."""
    trained = model if trained is None else trained
    optimizer = torch.optim.SGD(trained.parameters(), 0.1, 0.9)
    trained.train()
    F.cross_entropy(trained(X), Y).backward()
    optimizer.step()
    return run(trained, X)


def test_hosts_are_what_is_tested() -> None:
    assert any(isinstance(module, BlurWrapper) for module in converted().modules())


@pytest.mark.slow
def test_inductor_compiles_a_stage_of_it_where_there_is_a_compiler() -> None:
    # One stage, so that the compiler of C++ has little to do: a residual block of two sites.
    stage = converted().layer2
    features = torch.randn(2, stage[0].conv1.in_channels, 16, 16)
    backend = "inductor" if shutil.which("g++") else "aot_eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(stage, fullgraph=True, backend=backend)
        assert relative_error(run(stage, features), run(compiled, features)) < 1e-4


@pytest.mark.slow
def test_a_compiled_model_is_trained() -> None:
    kept, plain = converted(), converted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(kept, fullgraph=True, backend="aot_eager")
        assert relative_error(trained_once(plain), trained_once(kept, compiled)) < 1e-4


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """FSDP of the second kind, which gives every module that it shards a class of its own, on each stage and above."""
    for stage in (model.layer2, model.layer3):
        fully_shard(stage, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPED = {
    "ddp": lambda model: nn.parallel.DistributedDataParallel(model),
    "fsdp1": lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
    "fsdp2": lambda model: shard(model, init_device_mesh("cpu", (1,))),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")
def test_wrapped_for_many_processes_it_gives_and_learns_the_same(kind: str) -> None:
    kept, plain = converted(), converted()
    expected = run(plain, X)
    assert torch.equal(run(WRAPPED[kind](converted()), X), expected)
    wrapped = WRAPPED[kind](kept)
    assert relative_error(trained_once(plain), trained_once(kept, wrapped)) < 1e-5
    assert relative_error(expected, run(wrapped, X)) > 1e-3


def _train_sharded(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    kept = shard(converted(), init_device_mesh("cpu", (2,)))
    assert next(kept.parameters()).to_local().shape[0] < next(kept.parameters()).shape[0]  # type: ignore[operator]
    torch.save(trained_once(kept), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_it(tmp_path: Path) -> None:
    multiprocessing.spawn(_train_sharded, (str(tmp_path),), nprocs=2)
    expected = trained_once(converted())
    for rank in range(2):
        assert relative_error(expected, torch.load(tmp_path / f"{rank}.pt")) < 1e-4


def test_optimizers_of_timm_with_a_rate_for_each_depth() -> None:
    kept = converted()
    plain = timm.create_model("test_resnet", num_classes=10)
    rates = []
    for model in (kept, plain):
        optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)
        names = {id(p): name for name, p in model.named_parameters()}
        rates.append({names[id(p)]: g["lr_scale"] for g in optimizer.param_groups for p in g["params"]})
    assert rates[0] == rates[1]
    assert len(set(rates[0].values())) > 3
    assert len(list(model_parameters(kept, exclude_head=True))) == len(list(kept.parameters())) - 2


def test_averages_of_weights() -> None:
    kept = converted()
    average = ModelEmaV3(kept, decay=0.5)
    assert type(average.module) is type(kept)
    before = run(average, X).clone()
    assert torch.equal(before, run(kept, X))
    trained_once(kept)
    average.update(kept)
    assert relative_error(before, run(average, X)) > 1e-3


def test_activations_are_checkpointed() -> None:
    kept = converted()
    assert relative_error(run(kept, X), run(checkpointed(kept), X)) < 1e-6
    kept.set_grad_checkpointing()
    plain = converted()
    for model in (kept, plain):
        F.cross_entropy(model.train()(X), Y).backward()
    assert all(torch.allclose(p.grad, q.grad) for p, q in zip(kept.parameters(), plain.parameters(), strict=True))


def checkpointed(model: Any) -> nn.Module:
    class Stages(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            stages = [model.layer1, model.layer2, model.layer3, model.layer4]
            features = model.maxpool(model.act1(model.bn1(model.conv1(x))))
            result: Tensor = model.forward_head(checkpoint_seq(stages, features, use_reentrant=False))
            return result

    return Stages()


def test_state_dicts_go_both_ways() -> None:
    plain = timm.create_model("test_resnet", num_classes=10)
    kept, other = converted(), converted()
    plain.load_state_dict(kept.state_dict())
    other.load_state_dict(plain.state_dict())
    assert torch.equal(run(other, X), run(kept, X))


FAMILY = (
    "timm:test_resnet",
    "timm:test_efficientnet",
    "timm:test_convnext",
    "torchvision:resnet18",
    "torchvision:mobilenet_v3_small",
)


@pytest.mark.parametrize("name", FAMILY)
def test_what_a_class_offers_is_there(name: str) -> None:
    library, _, architecture = name.partition(":")
    torch.manual_seed(0)
    build = timm.create_model if library == "timm" else torchvision.models.get_model
    model: Any = build(architecture).eval()
    kept = antialias(model, keep_class=True)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(kept)))
    assert torch.equal(run(twin, X), run(kept, X))
    assert [n for n, _ in kept.named_modules() if ".blur_" not in f".{n}"] == [n for n, _ in model.named_modules()]
    if library == "timm":
        assert_offers_alike(kept, model)


def assert_offers_alike(kept: Any, model: Any) -> None:
    assert kept.pretrained_cfg == model.pretrained_cfg == kept.default_cfg
    assert kept.feature_info == model.feature_info
    assert kept.group_matcher(coarse=True) == model.group_matcher(coarse=True)
    assert getattr(kept, "no_weight_decay", set)() == getattr(model, "no_weight_decay", set)()
    with torch.no_grad():
        features = kept.forward_intermediates(X, indices=2, intermediates_only=True)
        assert [f.shape for f in features] == [
            f.shape for f in model.forward_intermediates(X, indices=2, intermediates_only=True)
        ]
        assert torch.equal(kept.forward_head(kept.forward_features(X)), kept(X))
    kept.reset_classifier(4)
    assert kept.get_classifier().out_features == 4
    assert run(kept, X).shape == (2, 4)
