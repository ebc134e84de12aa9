"""Convert networks of strangers' packages, and print the table of `docs/support.md`: `python -m benchmarks.strangers`.

None of the packages is needed by blurify, and what is not installed is skipped with a line. All that are listed: `pip
install --no-deps transformers tokenizers safetensors ultralytics segmentation-models-pytorch monai open_clip_torch ftfy
kornia kornia_rs speechbrain hyperpyyaml ruamel.yaml torchaudio pytorchcv efficientnet_pytorch facenet-pytorch lpips
demucs encodec pretrainedmodels spandrel diffusers vit-pytorch resnest unet`, beside `huggingface_hub`,
`opencv-python-headless`, `scipy`, `einops`, `sentencepiece` and `julius`. No weights are fetched: networks are built
from local configurations, with random weights.

A network is converted with `form="auto", partial=True` in a process of its own. `front-end` is what recorded it; of one
that is converted in parts, how many parts. `identity` is the proof's relative error at one tap, and seconds are of the
processor, for converting and proving.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, tuple[Any, ...]]
COLUMNS = ("package", "network", "front-end", "form", "rewritten", "kept", "identity", "proofs", "seconds")
SECONDS = 600
RESULTS = Path(__file__).parent / "results" / "strangers.jsonl"


def image(side: int = 128, channels: int = 3, axes: int = 2) -> tuple[Tensor]:
    """Return one seeded image, signal or volume."""
    return (torch.randn(1, channels, *(side,) * axes, generator=torch.Generator().manual_seed(0)),)


def of_transformers(model: str, config: str, **options: Any) -> Callable[[], Made]:
    """Return what builds a network of Hugging Face from a local configuration."""

    def make() -> Made:
        package = importlib.import_module("transformers")
        return getattr(package, model)(getattr(package, config)(**options)), image()

    return make


def called(path: str, *args: Any, inputs: Callable[[], tuple[Any, ...]] = image, **options: Any) -> Callable[[], Made]:
    """Return what builds a network by calling `package.module:name`."""

    def make() -> Made:
        module, _, name = path.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found(*args, **options), inputs()

    return make


def detr() -> Made:
    """Return DETR on a backbone of Hugging Face's own."""
    package = importlib.import_module("transformers")
    backbone = package.ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", out_features=["stage4"])
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 10}
    config = package.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, **sizes
    )
    return package.DetrForObjectDetection(config), image()


def yolo(name: str, kind: str = "DetectionModel") -> Callable[[], Made]:
    """Return what builds a network of ultralytics from its YAML."""

    def make() -> Made:
        return getattr(importlib.import_module("ultralytics.nn.tasks"), kind)(f"{name}.yaml", verbose=False), image(160)

    return make


def clip() -> Made:
    """Return the image tower of OpenCLIP's ResNet."""
    model = importlib.import_module("open_clip").create_model("RN50", pretrained=None)
    return model.visual, image(224)


def encodec() -> Made:
    """Return the encoder of EnCodec."""
    module = importlib.import_module("encodec.modules")
    return module.SEANetEncoder(n_filters=8, dimension=32), image(6400, 1, 1)


def audio(length: int, channels: int = 1) -> Callable[[], tuple[Tensor]]:
    """Return what makes one signal."""
    return lambda: image(length, channels, 1)


def small(side: int, channels: int = 3, axes: int = 2) -> Callable[[], tuple[Tensor]]:
    """Return what makes one image of this size."""
    return lambda: image(side, channels, axes)


def mel() -> tuple[Tensor]:
    """Return frames of a spectrogram, time before bands."""
    return (torch.randn(1, 120, 80, generator=torch.Generator().manual_seed(0)),)


def two_images() -> tuple[Tensor, Tensor]:
    """Return two images to compare."""
    return image(96)[0], image(96)[0].flip(3)


def denoised() -> tuple[Tensor, Tensor]:
    """Return a noisy image and its step."""
    return image(64)[0], torch.tensor([10])


RESNET = {"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_sizes": [32, 64, 128, 256], "embedding_size": 32}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}
NETWORKS: dict[str, Callable[[], Made]] = {
    "transformers: ResNet": of_transformers("ResNetForImageClassification", "ResNetConfig", **RESNET),
    "transformers: RegNet": of_transformers("RegNetForImageClassification", "RegNetConfig"),
    "transformers: ConvNeXt": of_transformers("ConvNextForImageClassification", "ConvNextConfig", **STAGES),
    "transformers: SegFormer": of_transformers("SegformerForSemanticSegmentation", "SegformerConfig"),
    "transformers: MobileNetV2": of_transformers("MobileNetV2ForImageClassification", "MobileNetV2Config"),
    "transformers: PoolFormer": of_transformers("PoolFormerForImageClassification", "PoolFormerConfig"),
    "transformers: EfficientNet": of_transformers("EfficientNetModel", "EfficientNetConfig", depth_coefficient=0.5),
    "transformers: MobileViT": of_transformers("MobileViTForImageClassification", "MobileViTConfig", image_size=128),
    "transformers: LeViT": of_transformers("LevitForImageClassification", "LevitConfig", image_size=128),
    "transformers: BiT": of_transformers(
        "BitForImageClassification", "BitConfig", depths=[1, 1], hidden_sizes=[64, 128], embedding_size=32, num_groups=8
    ),
    "transformers: DETR": detr,
    "ultralytics: yolov8n": yolo("yolov8n"),
    "ultralytics: yolo11n": yolo("yolo11n"),
    "ultralytics: yolov8n-seg": yolo("yolov8n-seg", "SegmentationModel"),
    "ultralytics: yolov8n-cls": yolo("yolov8n-cls", "ClassificationModel"),
    "segmentation_models_pytorch: Unet": called("segmentation_models_pytorch:Unet", "resnet18", encoder_weights=None),
    "segmentation_models_pytorch: FPN": called("segmentation_models_pytorch:FPN", "mobilenet_v2", encoder_weights=None),
    "segmentation_models_pytorch: DeepLabV3+": called(
        "segmentation_models_pytorch:DeepLabV3Plus", "resnet18", encoder_weights=None
    ),
    "monai: BasicUNet": called(
        "monai.networks.nets:BasicUNet", 3, 1, 2, features=(8, 8, 16, 16, 32, 8), inputs=small(32, 1, 3)
    ),
    "monai: UNet": called("monai.networks.nets:UNet", 2, 3, 2, (8, 16, 32), (2, 2)),
    "monai: DynUNet": called("monai.networks.nets:DynUNet", 2, 3, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32]),
    "monai: SegResNet": called("monai.networks.nets:SegResNet", 2, 8, 3, 2),
    "monai: AttentionUnet": called("monai.networks.nets:AttentionUnet", 2, 3, 2, (8, 16, 32), (2, 2)),
    "monai: DenseNet121": called("monai.networks.nets:DenseNet121", 3, 1, 2, inputs=small(32, 1, 3)),
    "open_clip: RN50": clip,
    "kornia: HardNet": called("kornia.feature:HardNet", pretrained=False, inputs=small(32, 1)),
    "kornia: DISK": called(
        "kornia.feature.disk._unets:Unet", in_features=3, down=[16, 32, 64], up=[64, 33], inputs=small(64)
    ),
    "speechbrain: CRDNN": called("speechbrain.lobes.models.CRDNN:CRDNN", input_shape=(None, None, 80), inputs=mel),
    "speechbrain: ECAPA-TDNN": called(
        "speechbrain.lobes.models.ECAPA_TDNN:ECAPA_TDNN", 80, channels=[64] * 4 + [192], lin_neurons=64, inputs=mel
    ),
    "torchaudio: wav2vec 2": called("torchaudio.models:wav2vec2_base", inputs=lambda: (image(4000, 1, 1)[0][0],)),
    "torchaudio: Conv-TasNet": called("torchaudio.models:ConvTasNet", inputs=audio(4000)),
    "pytorchcv: ResNet-18": called("pytorchcv.model_provider:get_model", "resnet18", inputs=small(224)),
    "pytorchcv: MobileNet": called("pytorchcv.model_provider:get_model", "mobilenet_w1", inputs=small(224)),
    "pytorchcv: PSPNet": called("pytorchcv.model_provider:get_model", "pspnet_resnetd50b_voc", in_size=(128, 128)),
    "efficientnet_pytorch: B0": called("efficientnet_pytorch:EfficientNet.from_name", "efficientnet-b0"),
    "facenet_pytorch: InceptionResnetV1": called("facenet_pytorch:InceptionResnetV1", inputs=small(160)),
    "lpips: SqueezeNet": called(
        "lpips:LPIPS", net="squeeze", pretrained=False, pnet_rand=True, verbose=False, inputs=two_images
    ),
    "demucs: Demucs": called("demucs.demucs:Demucs", ["a"], channels=8, depth=3, inputs=audio(16000, 2)),
    "demucs: HDemucs": called("demucs.hdemucs:HDemucs", ["a"], channels=8, inputs=audio(32768, 2)),
    "encodec: encoder": encodec,
    "pretrainedmodels: BN-Inception": called("pretrainedmodels:bninception", pretrained=None, inputs=small(224)),
    "spandrel: NAFNet": called(
        "spandrel.architectures.NAFNet.__arch.NAFNet_arch:NAFNet",
        width=8,
        enc_blk_nums=[1, 1],
        middle_blk_num=1,
        dec_blk_nums=[1, 1],
    ),
    "diffusers: UNet2D": called(
        "diffusers:UNet2DModel", block_out_channels=(32, 32, 64, 64), norm_num_groups=8, inputs=denoised
    ),
    "diffusers: AutoencoderKL": called(
        "diffusers:AutoencoderKL",
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 32),
        norm_num_groups=8,
    ),
    "vit_pytorch: MobileViT": called(
        "vit_pytorch.mobile_vit:MobileViT",
        (128, 128),
        [96, 120, 144],
        [16, 32, 48, 48, 64, 64, 80, 80, 96, 96, 384],
        10,
    ),
    "vit_pytorch: CCT": called(
        "vit_pytorch.cct:CCT",
        img_size=(128, 128),
        embedding_dim=64,
        n_conv_layers=2,
        kernel_size=7,
        stride=2,
        padding=3,
        pooling_kernel_size=3,
        pooling_stride=2,
        pooling_padding=1,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2.0,
        num_classes=10,
        positional_embedding="learnable",
    ),
    "resnest: ResNeSt-50": called("resnest.torch:resnest50", pretrained=False),
    "unet: UNet2D": called("unet:UNet2D", in_channels=3, out_channels_first_layer=8, num_encoding_blocks=3, padding=1),
}


def measure(name: str) -> dict[str, Any]:
    """Convert one network and prove it."""
    import blurify

    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    model, inputs = NETWORKS[name]()
    model = model.eval()
    start = time.process_time()
    converted = blurify.antialias(model, example_inputs=inputs, form="auto", partial=True)
    verdict = blurify.verify(model, converted, inputs)
    seconds = time.process_time() - start
    meta: dict[str, Any] = vars(converted)["meta"]
    plan = meta["blurify"]
    parts = [part for part in plan.parts if not part.reason]
    front = f"{len(parts)} parts" if parts else str(meta.get("front_end") or traced_by(model, inputs))
    return {
        "front-end": front,
        "form": "in parts" if parts else meta["blurify_form"],
        "rewritten": len(plan.rewritten),
        "kept": len(plan.kept),
        "identity": f"{verdict.identity_error:.0e}",
        "proofs": "ok" if verdict.ok else "; ".join(failed(verdict)),
        "seconds": round(seconds),
    }


def failed(verdict: Any) -> list[str]:
    """Return the names of the proofs that failed."""
    found = [row.name for row in verdict.rows if row.state == "failed"]
    return [*found, *(["shapes"] if any(not shape.ok for shape in verdict.shapes) else [])] or ["identity or weights"]


def traced_by(model: nn.Module, inputs: tuple[Any, ...]) -> str:
    """Return which front-end records the model; a model of its own class does not say."""
    from blurify.tracing import trace
    from blurify.tracing.inputs import Inputs

    return str(trace(model, Inputs(inputs)).meta["front_end"])


def measured(name: str) -> dict[str, Any]:
    """Run `measure` in a process of its own, which has the package already; of what fails, say why."""
    package = name.partition(":")[0]
    if importlib.util.find_spec(package) is None:
        return {"skipped": f"{package} is not installed"}
    importlib.import_module(package)
    answers, asked = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(name, asked))
    process.start()
    asked.close()
    try:
        answer: dict[str, Any] = answers.recv() if answers.poll(SECONDS) else {"why": f"more than {SECONDS} s"}
    except EOFError:
        answer = {"why": "it died"}
    process.kill()
    process.join()
    return answer


def _answer(name: str, asked: Connection) -> None:
    try:
        asked.send(measure(name))
    except Exception as error:
        asked.send({"why": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"})


def section(path: Path = RESULTS) -> list[str]:
    """Return the table of the results, and what failed."""
    results = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(str(each[column]) for column in COLUMNS)} |" for each in results if "why" not in each]
    others = [f"- {each['package']} {each['network']}: {each['why']}" for each in results if "why" in each]
    return [*lines, "", *others] if others else lines


def main() -> None:
    """Measure every network, tell each as soon as it is known, write the results and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="networks whose name holds this; nothing is written then")
    options = parser.parse_args()
    if not options.only:
        RESULTS.unlink(missing_ok=True)
    for name in NETWORKS:
        if options.only in name:
            package, _, network = name.partition(": ")
            found = measured(name)
            print(name, found, file=sys.stderr, flush=True)
            if "skipped" not in found and not options.only:
                with RESULTS.open("a") as file:
                    file.write(json.dumps({"package": package, "network": network} | found) + "\n")
    if not options.only:
        print("\n".join(section()))


if __name__ == "__main__":
    main()
