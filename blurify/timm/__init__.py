"""Antialiased variants of timm's models, for `timm.create_model` and whatever calls it.

>>> import blurify.timm, timm
>>> blurify.timm.register()
>>> model = timm.create_model("blur_resnet18", num_classes=10, blur_filt_size=3)
>>> type(model).__name__, model.pretrained_cfg["architecture"]
('ResNet', 'blur_resnet18')

`python -m blurify.timm SCRIPT ARGUMENTS` registers them and runs a script, such as timm's own `train.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blurify.timm.antialiased import register, unregister

__all__ = ["register", "unregister"]


def __getattr__(name: str) -> Any:
    # Looked up when first used, so that `python -m blurify.timm` answers a mistake before it imports torch.
    if name not in __all__:
        raise AttributeError(f"module 'blurify.timm' has no attribute {name!r}")
    from blurify.timm import antialiased

    return getattr(antialiased, name)
