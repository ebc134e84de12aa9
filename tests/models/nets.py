"""Real networks of many families, small ones, and the input size each is tried on."""

from __future__ import annotations

TORCHVISION = {
    "alexnet": 96,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 96,
    "inception_v3": 107,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 65,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_0": 67,
    "vgg11_bn": 64,
}
TIMM = {
    "convnext_atto": 64,
    "cspresnet50": 64,
    "dla34": 64,
    "dpn48b": 64,
    "ecaresnet26t": 64,
    "edgenext_xx_small": 64,
    "ese_vovnet19b_dw": 65,
    "fbnetc_100": 64,
    "gernet_s": 64,
    "ghostnet_050": 64,
    "hrnet_w18_small": 64,
    "inception_v4": 107,
    "lcnet_050": 65,
    "levit_128s": 224,
    "mixnet_s": 65,
    "mobilenetv4_conv_small": 64,
    "regnety_002": 65,
    "repvgg_a0": 64,
    "res2net50_26w_4s": 64,
    "resnest14d": 64,
    "resnet26d": 65,
    "resnetaa50": 64,
    "resnetblur50": 64,
    "resnetv2_50": 64,
    "rexnet_100": 64,
    "selecsls42": 64,
    "skresnet18": 64,
    "tf_efficientnet_b0": 65,
    "tf_mixnet_s": 67,
    "xception41": 64,
}
ALL = [f"torchvision:{name}" for name in TORCHVISION] + [f"timm:{name}" for name in TIMM]
# In the default run, where `test_families` has most of the others' kinds.
EVERYDAY = frozenset(
    [
        *(f"torchvision:{name}" for name in ("resnet18", "squeezenet1_0")),
        *(f"timm:{name}" for name in ("lcnet_050", "tf_efficientnet_b0")),
    ]
)


def size(name: str) -> int:
    """The height and width it is tried on."""
    library, _, model = name.partition(":")
    return (TIMM if library == "timm" else TORCHVISION)[model]
