"""Antialias any PyTorch vision network, keeping its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blurify._version import __version__

if TYPE_CHECKING:
    from blurify.api import antialias, plan
    from blurify.errors import BlurifyError, HooksWarning, NoEffectWarning, OmissionWarning
    from blurify.files import load, save
    from blurify.planning.plan import Plan
    from blurify.recovery.recover import recover
    from blurify.verifying.proving import verify
    from blurify.verifying.verdict import Verdict

__all__ = [
    "BlurifyError",
    "HooksWarning",
    "NoEffectWarning",
    "OmissionWarning",
    "Plan",
    "Verdict",
    "__version__",
    "antialias",
    "load",
    "plan",
    "recover",
    "save",
    "verify",
]

_HOMES = {
    "BlurifyError": "errors",
    "HooksWarning": "errors",
    "NoEffectWarning": "errors",
    "OmissionWarning": "errors",
    "Plan": "planning.plan",
    "Verdict": "verifying.verdict",
    "antialias": "api",
    "load": "files",
    "plan": "api",
    "recover": "recovery.recover",
    "save": "files",
    "verify": "verifying.proving",
}


def __getattr__(name: str) -> Any:
    # Names are looked up when first used, so that `import blurify` and `blurify --help` do not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'blurify' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"blurify.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
