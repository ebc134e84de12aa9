"""Decide which names a pickle may load, before anything in it runs.

The promise: reading a file calls only what torch's weights-only unpickler allows by itself, the `nn.Module` classes
that torch, torchvision, timm and blurify define, the short `PLAIN` list below, and what the user allowed by name. The
set is closed: an allowed constructor can be handed nothing from the file but data and other members of the set.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blurify.errors import FileError, UnsafeFileError, one_line
from blurify.files.untrusted.packages import advice, advice_on_scripts, class_of_package, is_value
from blurify.files.untrusted.stand_ins import may_stand_in

# Where module classes may come from. Narrower than the four packages: the rest of torch.nn reaches into
# distributed training, and the rest of torchvision and timm holds data sets, downloads and training loops.
TRUSTED_MODULES = (
    "torch.nn.modules",
    "torch.nn.parallel.data_parallel",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms.transforms",
    "timm.models",
    "timm.layers",
    "blurify.layers",
)

# Not module classes, yet named by pickles of ordinary models (found by pickling one of every timm and torchvision
# family). Each only holds data or computes numbers from numbers.
PLAIN = frozenset(
    {
        "functools.partial",  # torchvision's VisionTransformer keeps its norm_layer so; making a partial calls nothing
        "argparse.Namespace",  # the training scripts of timm and torchvision save their arguments next to the weights
        "timm.layers.format.Format",  # the enum NCHW/NHWC of every timm patch embedding
        "timm.layers.activations.gelu",  # NFNet keeps its activation as a function
        "torchvision.models.optical_flow.raft._pass_through_h",  # RAFT small: the identity
        "torchvision.ops.boxes.box_iou",  # the detection models keep it as their similarity
        "torchvision.models.detection._utils.BalancedPositiveNegativeSampler",  # two numbers
        "torchvision.models.detection._utils.BoxCoder",  # five numbers
        "torchvision.models.detection._utils.BoxLinearCoder",  # one flag
        "torchvision.models.detection._utils.Matcher",  # three numbers
        "torchvision.models.detection._utils.SSDMatcher",  # one number
        # What a pickled converted model holds beside its modules: data all, until `rebuild` looks functions up in it.
        "blurify.saved.host",  # makes a module of a class that the file may name anyway, and sets its state
        "blurify.saved.plan",  # reads JSON
        "blurify.saved.graph",  # is told apart below
        # Of older files.
        *("blurify.graph.hosts.rebuild", "blurify.planning.plan.Plan", "blurify.planning.decision.Decision"),
        *("blurify.sites.Kind", "blurify.sites.Action", "blurify.sites.Reason"),
        *(
            "blurify.graph.module.Modes",
            "blurify.graph.codec.FunctionRef",
            "blurify.graph.codec.NodeRef",
            "blurify.graph.tree.KeepsExtraState",
        ),
        *("torch.fx.immutable_collections.immutable_dict", "torch.fx.immutable_collections.immutable_list"),
        *("builtins.frozenset", "builtins.slice"),
    }
)

# Classes that compile text out of the file when they are unpickled.
_RUNS_CODE = (torch.fx.GraphModule, torch.jit.ScriptModule)

# Classes here trace a model when they are made, and so turn names out of the file into code.
_TRACES = ("timm.models._features_fx", "torchvision.models.feature_extraction")

# torch's unpickler refuses these modules whatever it is told, so offering a flag would be a lie.
_NEVER = ("os", "posix", "nt", "sys")

# Why a name that a user may well meet is refused.
_EXPLAINED = {
    "blurify.graph.module.rebuild": "a converted model's graph, which can call any function that the file names",
    "torch.fx.graph_module.reduce_graph_module": "a graph of torch.fx, which is code inside the file",
    "builtins.getattr": "which reaches into any object",
}

_SHOWN = 3


@dataclass(frozen=True)
class Trust:
    """What the user allows: names, and packages whose classes may be rebuilt."""

    names: Collection[str] = ()
    packages: Collection[str] = ()


NOBODY = Trust()


@dataclass(frozen=True)
class Resolved:
    """The objects that a pickle may use, by its names, and the names that are not loaded.

    Those in `callables` a pickle may call with arguments; of those in `bare` it may only restore the state.
    """

    pairs: list[tuple[Any, str]]
    unknown: list[str]
    bare: frozenset[str] = frozenset()
    callables: frozenset[str] = frozenset()


def resolve_globals(path: Path, names: Collection[str], trust: Trust = NOBODY) -> Resolved:
    """Turn the names that a file uses into what it may use, or refuse the file.

    >>> resolve_globals(Path("m.pt"), ["torch.nn.modules.linear.Linear"]).pairs
    [(<class 'torch.nn.modules.linear.Linear'>, 'torch.nn.modules.linear.Linear')]
    """
    odd = next((name for name in sorted(names) if not name.isprintable()), None)
    if odd is not None:  # shown as it is, it could write anything to the user's terminal
        raise UnsafeFileError(f"{path} names {ascii(odd)[:80]}, which no class is called, so nothing in it was run.")
    own = {name: _user_s_name(name, trust) for name in names}
    known = {name: _allowed_by_user(path, name, its) for name, its in own.items() if its is not None}
    packaged = {
        name: value
        for name in names
        if name not in known and (value := class_of_package(name, trust.packages)) is not None
    }
    others = {name: _allowed_by_default(name) for name in names if name not in known and name not in packaged}
    refused = sorted(name for name, value in others.items() if value is None)
    if any(not may_stand_in(name) for name in refused):
        raise refusal(path, refused)
    found = known | packaged | {name: value for name, value in others.items() if value is not None}
    values = frozenset(name for name, value in packaged.items() if is_value(value))
    numbers = numpy_types() if any(name.startswith("numpy.") for name in known) else []
    pairs = [(value, name) for name, value in sorted(found.items())] + numbers
    return Resolved(pairs, refused, frozenset(packaged) - values, values.union(known, refused))


def _user_s_name(name: str, trust: Trust) -> str | None:
    """Return the name that the user allowed, which for a class of a script is that of the module with its source."""
    if name in trust.names:
        return name
    script, _, last = name.partition(".")
    return next((own for own in trust.names if script == "__main__" and own.endswith(f".{last}")), None)


def numpy_types() -> list[tuple[Any, str]]:
    """Return the classes of NumPy's types, which a pickle of a number restores without naming them."""
    import numpy as np

    kinds = {type(np.dtype(code)) for code in np.typecodes["All"]}
    return [(kind, f"{kind.__module__}.{kind.__qualname__}") for kind in kinds]


def _allowed_by_default(name: str) -> Any | None:
    module_name, _, attribute = name.rpartition(".")
    if name == "blurify.saved.graph":
        # To make a graph runs the model in the file, which must be looked at before.
        return _import("blurify.rewriting.origin", "Pending")
    if name in PLAIN:
        return _import(module_name, attribute)
    if not _trusted(module_name):
        return None
    value = _import(module_name, attribute)
    return value if _is_plain_module_class(value) else None


def _is_plain_module_class(value: object) -> bool:
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return False
    return _trusted(value.__module__) and value.__module__ not in _TRACES and not issubclass(value, _RUNS_CODE)


def _allowed_by_user(path: Path, name: str, own: str) -> Callable[..., Any]:
    if name.partition(".")[0] in _NEVER:
        raise refusal(path, [name])
    try:
        value = pkgutil.resolve_name(own)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{path} names {own}, which you allowed but which cannot be imported here ({one_line(error)}); "
        raise FileError(message + advice_on_scripts(path, own)) from error
    return value  # type: ignore[no-any-return]


def _trusted(module_name: str) -> bool:
    return any(module_name == root or module_name.startswith(root + ".") for root in TRUSTED_MODULES)


def _import(module_name: str, attribute: str) -> Any | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old pickles name timm.models.layers, which warns that it moved
        try:
            return getattr(importlib.import_module(module_name), attribute, None)
        except ImportError:
            return None


def refusal(path: Path, refused: list[str]) -> UnsafeFileError:
    """Return the refusal of a file for the names in it, with the options that allow all of them."""
    banned = [name for name in refused if name.partition(".")[0] in _NEVER]
    if banned:
        flag = f"--allow {banned[0]}"
        return UnsafeFileError(
            f"{path} asks to run {banned[0]}; it was refused and nothing in it was run, "
            f"and since this can run any program on the computer not even {flag} lets it through."
        )
    shown = ", ".join(refused[:_SHOWN]) + (f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else "")
    return UnsafeFileError(
        f"{path} needs {shown}, {_why(refused[-1])}, so it was refused and nothing in it was run; "
        f"{advice(path, refused)}."
    )


def _why(name: str) -> str:
    if name in _EXPLAINED:
        return _EXPLAINED[name]
    if name.startswith("__main__."):
        return "a class of the script that saved it"
    package = name.partition(".")[0]
    module_name, _, attribute = name.rpartition(".")
    if _trusted(module_name) and _import(module_name, attribute) is None:
        return f"which the {package} {_version(package)} installed here does not have"
    return "not among the model classes of torch, torchvision, timm and blurify"


@functools.lru_cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(no version known)"
