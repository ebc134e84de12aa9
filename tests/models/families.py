"""One small architecture of each family of timm and torchvision, and what it is fed, for a run of all stages.

Chosen by what `python -m benchmarks.zoo --families` measured; where the smallest is large, its builder is told sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
# Where an odd size is taken, the second is odd on both axes and not square.
PAIR: tuple[Shape, ...] = ((3, 64, 64), (3, 67, 83))
EVEN: tuple[Shape, ...] = ((3, 64, 64), (3, 64, 96))
# Attention over a fixed grid takes one size.
FIXED: tuple[Shape, ...] = ((3, 64, 64),)


# MobileNetV2's rows of blocks, in its own words: widening, channels, blocks and stride.
BLOCKS = [[1, 16, 1, 1], [6, 24, 1, 2], [6, 32, 1, 2], [6, 64, 1, 2], [6, 160, 1, 2]]


@dataclass(frozen=True)
class Network:
    """An architecture, the shapes that it runs on, and what makes it small.

    That is arguments of its builder, or how many blocks of each row of alike ones are kept.
    """

    architecture: str
    shapes: tuple[Shape, ...] = PAIR
    sizes: dict[str, Any] = field(default_factory=dict)
    blocks: int | None = None


FAMILIES: dict[str, Network] = {
    "timm:beit": Network("beit_base_patch16_224", FIXED, {"img_size": 64, "depth": 2}),
    "timm:byoanet": Network("halonet_h1", ((3, 256, 256),)),
    "timm:byobnet": Network("test_byobnet"),
    "timm:cait": Network("cait_xxs24_224", FIXED, {"img_size": 64, "depth": 2}),
    "timm:coat": Network(
        "coat_tiny",
        FIXED,
        {"img_size": 64, "embed_dims": (64,) * 4, "serial_depths": (1,) * 4, "parallel_depth": 1},
    ),
    "timm:convit": Network("convit_tiny", FIXED, {"img_size": 64, "depth": 3, "local_up_to_layer": 2}),
    "timm:convmixer": Network("convmixer_768_32"),
    "timm:convnext": Network("test_convnext", sizes={"depths": (1, 1, 1, 1)}),
    "timm:cpubone": Network("cpubone_nano", sizes={"depth_list": (0, 1, 1, 1, 1)}),
    "timm:crossvit": Network("crossvit_tiny_240"),
    "timm:csatv2": Network("csatv2", EVEN, {"depths": (1, 1, 1, 1), "transformer_depths": (0, 0, 1, 1)}),
    "timm:cspnet": Network("cs3darknet_focus_s"),
    "timm:cspnext": Network("cspnext_tiny"),
    "timm:davit": Network("davit_tiny"),
    "timm:deepseek_vit": Network("deepseek_vit_412m", ((3, 224, 224),), {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "timm:deit": Network("deit_tiny_patch16_224", FIXED, {"img_size": 64, "depth": 2}),
    "timm:densenet": Network("densenet121"),
    "timm:dla": Network("dla46x_c", EVEN),
    "timm:dpn": Network("dpn48b"),
    "timm:edgenext": Network("edgenext_xx_small"),
    "timm:efficientformer": Network("efficientformer_l1", ((3, 224, 224),)),
    "timm:efficientformer_v2": Network("efficientformerv2_s0", ((3, 224, 224),)),
    "timm:efficientnet": Network("test_efficientnet"),
    "timm:efficientvim": Network("efficientvim_m1"),
    "timm:efficientvit_mit": Network("efficientvit_b0"),
    "timm:efficientvit_msra": Network("efficientvit_m0"),
    "timm:eva": Network("vit_tiny_patch16_dinov3_qkvb", EVEN),
    "timm:fasternet": Network("fasternet_t0", sizes={"depths": (1, 1, 1, 1)}),
    "timm:fastvit": Network("fastvit_t8"),
    "timm:focalnet": Network("focalnet_tiny_srf"),
    "timm:gcvit": Network("gcvit_xxtiny", FIXED, {"img_size": 64, "window_size": (2, 2, 2, 2)}),
    "timm:ghostnet": Network("ghostnet_050"),
    "timm:hardcorenas": Network("hardcorenas_b"),
    "timm:hgnet": Network("hgnetv2_b0"),
    "timm:hiera": Network("hiera_tiny_224", FIXED, {"img_size": 64}),
    "timm:hieradet_sam2": Network("sam2_hiera_tiny", EVEN),
    "timm:hrnet": Network("hrnet_w18_small", EVEN),
    "timm:iformer": Network("iformer_t"),
    "timm:inception_next": Network("inception_next_atto", sizes={"depths": (1, 1, 1, 1)}),
    "timm:inception_resnet_v2": Network("inception_resnet_v2", ((3, 139, 139), (3, 131, 163))),
    "timm:inception_v3": Network("inception_v3", ((3, 96, 96), (3, 99, 115))),
    "timm:inception_v4": Network("inception_v4", ((3, 139, 139), (3, 131, 163))),
    "timm:lcnetv2": Network("lcnetv2_small", sizes={"depths": (1, 1, 1, 1)}),
    "timm:levit": Network("levit_128s", FIXED, {"img_size": 64, "depth": (1, 1, 1)}),
    "timm:lowformer": Network("lowformer_b0", sizes={"depth_list": (0, 1, 1, 1, 1)}),
    "timm:mambaout": Network("test_mambaout"),
    "timm:maxxvit": Network("test_coatnet", ((3, 160, 160),)),
    "timm:metaformer": Network("poolformerv2_s12"),
    "timm:mlp_mixer": Network("gmlp_ti16_224", FIXED, {"img_size": 64}),
    "timm:mobilenetv3": Network("mobilenetv3_small_050"),
    "timm:mobilenetv5": Network("mobilenetv5_base"),
    "timm:mobilevit": Network("mobilevit_xxs"),
    "timm:mvitv2": Network("mvitv2_tiny"),
    "timm:naflexvit": Network("naflexvit_base_patch16_parfac_gap", EVEN, {"depth": 1}),
    "timm:nest": Network("nest_tiny", FIXED, {"img_size": 64}),
    "timm:nextvit": Network("nextvit_small"),
    "timm:nfnet": Network("test_nfnet"),
    "timm:pit": Network("pit_ti_224", FIXED, {"img_size": 64}),
    "timm:pnasnet": Network("pnasnet5large"),
    "timm:pvt_v2": Network("pvt_v2_b0"),
    "timm:qwen3_vit": Network("qwen3_vit_88m", EVEN, {"depth": 1}),
    "timm:rdnet": Network("rdnet_tiny"),
    "timm:regnet": Network("regnetx_002"),
    "timm:repghost": Network("repghostnet_050"),
    "timm:repvit": Network("repvit_m1"),
    "timm:res2net": Network("res2next50"),
    "timm:resnest": Network("resnest14d"),
    "timm:resnet": Network("test_resnet"),
    "timm:resnetv2": Network("resnetv2_18"),
    "timm:rexnet": Network("rexnet_100"),
    "timm:selecsls": Network("selecsls42"),
    "timm:senet": Network("legacy_seresnet18"),
    "timm:sequencer": Network("sequencer2d_s", sizes={"layers": (1, 1, 1, 1)}),
    "timm:shvit": Network("shvit_s1"),
    "timm:sknet": Network("skresnet18"),
    "timm:starnet": Network("starnet_s050", sizes={"depths": (1, 1, 1, 1)}),
    "timm:swiftformer": Network("swiftformer_xs"),
    "timm:swin_transformer": Network("swin_tiny_patch4_window7_224", FIXED, {"img_size": 64, "window_size": 4}),
    "timm:swin_transformer_v2": Network("swinv2_tiny_window16_256", FIXED, {"img_size": 64, "window_size": 4}),
    "timm:swin_transformer_v2_cr": Network("swinv2_cr_tiny_224", FIXED, {"img_size": 64}),
    "timm:tiny_vit": Network("tiny_vit_5m_224"),
    "timm:tnt": Network("tnt_s_legacy_patch16_224", FIXED, {"img_size": 64, "depth": 2}),
    "timm:tresnet": Network("tresnet_m", EVEN, {"layers": (1, 1, 1, 1)}),
    "timm:twins": Network("twins_svt_small"),
    "timm:vgg": Network("vgg11", sizes={"mlp_ratio": 0.02}),
    "timm:visformer": Network("visformer_tiny", FIXED, {"img_size": 64, "depth": (1, 1, 1)}),
    "timm:vision_transformer": Network("test_vit", EVEN, {"depth": 2}),
    "timm:vision_transformer_hybrid": Network("vit_tiny_r_s16_p8_224", FIXED, {"img_size": 64, "depth": 2}),
    "timm:vision_transformer_relpos": Network("test_vit_relpos", ((3, 160, 160),), {"depth": 2}),
    "timm:vision_transformer_sam": Network("samvit_base_patch16_224", EVEN, {"depth": 2}),
    "timm:vitamin": Network("vitamin_small_224", FIXED, {"img_size": 64}),
    "timm:volo": Network("volo_d1_224", FIXED, {"img_size": 64}, blocks=1),
    "timm:vovnet": Network("ese_vovnet19b_slim_dw"),
    "timm:xception": Network("legacy_xception"),
    "timm:xception_aligned": Network("xception41p"),
    "timm:xcit": Network("xcit_nano_12_p8_224"),
    "torchvision:alexnet": Network("alexnet"),
    "torchvision:convnext": Network("convnext_tiny", blocks=1),
    "torchvision:densenet": Network("densenet121"),
    "torchvision:detection.faster_rcnn": Network("fasterrcnn_mobilenet_v3_large_320_fpn"),
    "torchvision:detection.fcos": Network("fcos_resnet50_fpn"),
    "torchvision:detection.keypoint_rcnn": Network("keypointrcnn_resnet50_fpn"),
    "torchvision:detection.mask_rcnn": Network("maskrcnn_resnet50_fpn"),
    "torchvision:detection.retinanet": Network("retinanet_resnet50_fpn"),
    "torchvision:detection.ssd": Network("ssd300_vgg16", ((3, 300, 300),)),
    "torchvision:detection.ssdlite": Network("ssdlite320_mobilenet_v3_large"),
    "torchvision:efficientnet": Network("efficientnet_b0", blocks=1),
    "torchvision:googlenet": Network("googlenet"),
    "torchvision:inception": Network("inception_v3", ((3, 96, 96), (3, 99, 115))),
    "torchvision:mnasnet": Network("mnasnet0_5", blocks=1),
    "torchvision:mobilenetv2": Network("mobilenet_v2", sizes={"inverted_residual_setting": BLOCKS}),
    "torchvision:mobilenetv3": Network("mobilenet_v3_small"),
    "torchvision:quantization.googlenet": Network("quantized_googlenet"),
    "torchvision:quantization.inception": Network("quantized_inception_v3", ((3, 96, 96), (3, 99, 115))),
    "torchvision:quantization.mobilenetv2": Network("quantized_mobilenet_v2"),
    "torchvision:quantization.mobilenetv3": Network("quantized_mobilenet_v3_large"),
    "torchvision:quantization.resnet": Network("quantized_resnet18"),
    "torchvision:quantization.shufflenetv2": Network("quantized_shufflenet_v2_x0_5", blocks=2),
    "torchvision:regnet": Network("regnet_y_400mf"),
    "torchvision:resnet": Network("resnet18"),
    "torchvision:segmentation.deeplabv3": Network("deeplabv3_mobilenet_v3_large"),
    "torchvision:segmentation.fcn": Network("fcn_resnet50"),
    "torchvision:segmentation.lraspp": Network("lraspp_mobilenet_v3_large"),
    "torchvision:shufflenetv2": Network("shufflenet_v2_x0_5", blocks=2),
    "torchvision:squeezenet": Network("squeezenet1_1"),
    "torchvision:swin_transformer": Network("swin_t"),
    "torchvision:video.resnet": Network("mc3_18", ((3, 16, 64, 64), (3, 16, 67, 83))),
    "torchvision:video.s3d": Network("s3d", ((3, 16, 224, 224),)),
    "torchvision:video.swin_transformer": Network("swin3d_t", ((3, 16, 64, 64), (3, 16, 67, 83))),
    "torchvision:vision_transformer": Network("vit_b_16", FIXED, {"image_size": 64}),
}
# In the default run: what takes two seconds at most, and `levit`, `volo`, `csatv2`, `coat` and `googlenet`, each of
# which shows a decision that no cheaper one does.
EVERYDAY = frozenset(
    [
        *(
            f"timm:{family}"
            for family in (
                "byobnet coat convit convnext cpubone csatv2 cspnet efficientnet fasternet "
                "inception_next lcnetv2 levit lowformer mambaout maxxvit mobilenetv3 "
                "naflexvit nfnet regnet resnet resnetv2 starnet tresnet vgg visformer vision_transformer "
                "vision_transformer_hybrid vision_transformer_relpos volo vovnet"
            ).split()
        ),
        *(
            f"torchvision:{family}"
            for family in (
                "alexnet convnext efficientnet googlenet mnasnet mobilenetv2 "
                "quantization.resnet quantization.shufflenetv2 resnet shufflenetv2 squeezenet"
            ).split()
        ),
    ]
)
# Family: (its smallest architecture, why it is left to the whole run).
LEFT_OUT: dict[str, tuple[str, str]] = {
    "timm:gemma4_vit": ("gemma4_vit_167m", "15 s of torch.export, and nothing is rewritten"),
    "timm:nasnet": ("nasnetalarge", "16 s with as few channels as it can have; pnasnet has the same cells"),
    "torchvision:maxvit": ("maxvit_t", "14 s, for it takes one size only; timm's maxxvit is the same network"),
    "torchvision:optical_flow.raft": (
        "raft_small",
        "50 s, half of it in torch.export, which records twelve rounds of refinement",
    ),
    "torchvision:vgg": ("vgg11", "133 M parameters; test_networks has vgg11_bn"),
    "torchvision:video.mvit": ("mvit_v2_s", "13 s, for its positions fix the size; timm's mvitv2 is of the same kind"),
}
# Families whose images come in as patches already, so that nothing reduces a map.
NOTHING_TO_REWRITE = frozenset({"timm:naflexvit"})
