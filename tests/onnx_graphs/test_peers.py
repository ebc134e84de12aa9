"""The pass on the exported graph, and the export of the pass on the model, compute the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from blurify import antialias
from blurify.planning.spec import Spec
from tests.conftest import randomize_statistics
from tests.onnx_graphs.conftest import converted, np, onnx, run


def exported(model: nn.Module, x: torch.Tensor, path: Path, dynamo: bool, opset: int) -> Any:
    options: dict[str, Any] = {"verbose": False, "external_data": False} if dynamo else {}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(model, (x,), path, dynamo=dynamo, opset_version=opset, input_names=["x"], **options)
    return onnx.load(path)


def compare(name: str, folder: Path, taps: int, dynamo: bool, opset: int) -> None:
    torch.manual_seed(0)
    model, x = randomize_statistics(timm.create_model(name)).eval(), torch.rand(1, 3, 96, 96)
    graph, plan = converted(exported(model, x, folder / "x.onnx", dynamo, opset), folder, Spec.of(taps))
    smooth: Any = antialias(model, taps, example_inputs=x)
    expected = run(exported(smooth, x, folder / "y.onnx", dynamo, opset), x=x.numpy())
    assert len(plan.rewritten) == len(smooth.meta["blurify"].rewritten)
    for one, other in zip(run(graph, x=x.numpy()), expected, strict=True):
        assert abs(one - other).max() <= 1e-5 * max(abs(np.asarray(other)).max(), 1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_the_older_exporter(tmp_path: Path) -> None:
    compare("test_resnet", tmp_path, 4, False, 17)


# The older exporter does not write the pooling of VGG.
NETWORKS = (
    "resnet18 mobilenetv2_100 mobilenetv3_small_100 densenet121 efficientnet_b0 regnety_002 convnext_atto "
    "test_nfnet ghostnet_100 resnetv2_50"
).split()
EXPORTS = ((False, 11), (False, 13), (False, 17), (True, 20))
CASES = [(name, 4, False, 17) for name in NETWORKS]
CASES += [(name, 4, True, 20) for name in ("mobilenetv3_small_100", "convnext_atto")]
CASES += [("test_byobnet", taps, *export) for taps in (1, 3, 4) for export in EXPORTS]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "taps", "dynamo", "opset"), CASES)
def test_networks(name: str, taps: int, dynamo: bool, opset: int, tmp_path: Path) -> None:
    compare(name, tmp_path, taps, dynamo, opset)
