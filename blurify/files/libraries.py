"""Architectures of libraries that may be installed: `hf:FOLDER`, `smp:Unet`, `open_clip:RN50`, `monai:DenseNet121`.

Each is built from what is on this computer, with random weights: nothing is downloaded, and no remote code is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from blurify.errors import ArchitectureError

# What is to be installed for a name, and how a name is written.
PACKAGES = {
    "hf": ("transformers", "hf:FOLDER, with the folder's config.json"),
    "smp": ("segmentation_models_pytorch", "smp:Unet?encoder_name=resnet34"),
    "open_clip": ("open_clip", "open_clip:RN50"),
    "monai": ("monai.networks.nets", "monai:DenseNet121?spatial_dims=2&in_channels=1&out_channels=2"),
}
_DISTRIBUTIONS = {"open_clip": "open_clip_torch", "monai.networks.nets": "monai"}
# Parameters of factories that ask for trained weights, and what asks for none.
_WITHOUT = {"encoder_weights": None, "weights": None, "weights_backbone": None, "pretrained": False}
_WITHOUT |= {"pretrained_backbone": False, "pretrained_encoder": False}


def factory_of(library: str, name: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what builds an architecture of an installed library.

    >>> factory_of("smp", "Unet", {"encoder_name": "resnet34"})()
    Unet(...)

    Raises:
        ArchitectureError: the library is not installed, or has no such architecture.
    """
    package, form = PACKAGES[library]
    try:
        module = import_module(package)
    except ImportError as error:
        wanted = _DISTRIBUTIONS.get(package, package)
        raise ArchitectureError(
            f"'{library}:{name}' needs {wanted}, which cannot be imported; run: pip install {wanted}."
        ) from error
    if library == "hf":
        return partial(_from_config, module, Path(name), options)
    if library == "open_clip":
        return partial(_image_tower, module, name, options)
    found = getattr(module, name, None)
    if not callable(found):
        raise ArchitectureError(f"{package} has no architecture {name!r}; write {form}.")
    return partial(found, **without_weights(found, options))


def without_weights(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with those that keep a factory from downloading weights, which its defaults may ask for.

    >>> without_weights(lambda depth=3, encoder_weights="imagenet": None, {"depth": 2})
    {'depth': 2, 'encoder_weights': None}
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError):  # built-in callables do not say
        return options
    asking = {name: value for name, value in _WITHOUT.items() if name in parameters and parameters[name].default}
    return {**options, **{name: value for name, value in asking.items() if _has_default(parameters[name])}}


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _from_config(transformers: Any, folder: Path, options: dict[str, Any]) -> Any:
    if not folder.exists():
        raise ArchitectureError(f"There is no folder {folder} with a config.json; check the name.")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    named: list[Any] = [getattr(transformers, name, None) for name in config.architectures or ()]
    kind: Any = next((found for found in named if isinstance(found, type)), None)
    # Some build a backbone by themselves, whose weights are in the file.
    if getattr(config, "use_pretrained_backbone", False):
        config.use_pretrained_backbone = False
    return kind._from_config(config) if kind is not None else transformers.AutoModel.from_config(config)


def _image_tower(open_clip: Any, name: str, options: dict[str, Any]) -> Any:
    return open_clip.create_model(name, pretrained=None, load_weights=False, pretrained_text=False, **options).visual
