"""Plans of golden models are checked-in text; `pytest tests/models/test_golden.py --regenerate` rewrites them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from blurify import plan
from tests.conftest import tiered

GOLDEN = Path(__file__).parent / "golden"
MODELS = [
    "timm:cait_xxs24_224",
    "timm:convnext_atto",
    "timm:densenet121",
    "timm:edgenext_xx_small",
    "timm:hrnet_w18_small",
    "timm:inception_v3",
    "timm:levit_128s",
    "timm:mixnet_s",
    "timm:mobilenetv4_conv_small",
    "timm:nf_regnet_b0",
    "timm:pvt_v2_b0",
    "timm:resnet50d",
    "timm:resnetaa50",
    "timm:resnetblur50",
    "timm:swin_tiny_patch4_window7_224",
    "timm:tf_efficientnet_b0",
    "timm:vit_tiny_patch16_224",
    "torchvision:alexnet",
    "torchvision:deeplabv3_resnet50",
    "torchvision:googlenet",
    "torchvision:r3d_18",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:vgg16_bn",
]


# Every family of the default run is planned there; these are the kinds of lines that a plan can have.
EVERYDAY = [
    name for name in MODELS if not re.search("cait|densenet|hrnet|swin|pvt|resnetaa|edgenext|inception|deeplab", name)
]


@pytest.mark.parametrize("name", tiered(MODELS, *EVERYDAY))
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    library, _, model_name = name.partition(":")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", FutureWarning)
        if library == "timm":
            model = timm.create_model(model_name)
        else:
            options = {"weights_backbone": None} if model_name.startswith("deeplab") else {}
            model = torchvision.models.get_model(model_name, weights=None, **options)
    text = f"{plan(model)}\n"
    path = GOLDEN / f"{model_name}.txt"
    if request.config.getoption("--regenerate"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
