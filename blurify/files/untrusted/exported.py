"""The inside of a `torch.export` archive, checked before torch reads it.

Torch unpickles parts of an archive, loads libraries from it, evaluates the formulas of sizes and the guards as Python,
and looks its operators up anywhere in torch. So what is given to torch is an archive made again of what was checked:
weights as plain bytes, and a graph whose every operator, formula, name and type is of a closed set.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blurify.errors import FileError, UnsafeFileError
from blurify.files.untrusted.operators import is_known_operator
from blurify.files.untrusted.zipped import REFUSED, Unsafe, packed, read_entries

WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
GRAPH, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
PAYLOAD = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
KNOWN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    rf"|{PAYLOAD.pattern}|{'|'.join(map(re.escape, (WEIGHTS, CONSTANTS, GRAPH)))}"
)
IGNORED = re.compile(rf"extra/.+|{re.escape(SAMPLES)}")
# What a formula of sizes is made of, as SymPy writes its trees or as people do: sizes, numbers, functions that torch
# writes, and powers of one digit.
SYMBOL = r"(?:s|u|zf|zuf)\d+"
TREE = rf"Symbol\('{SYMBOL}'(?:, (?:positive|integer|nonnegative|real|nonzero)=True)*\)"
FUNCTIONS = (
    "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv IntTrueDiv FloatTrueDiv "
    "TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity IsNonOverlappingAndDenseIndicator Integer "
    "Rational Float Add Mul Max Min Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan "
    "GreaterThan And Or Not true false True False oo int_oo"
).split()
TOKEN = re.compile(
    rf"\s+|{SYMBOL}\b(?:\*\*\d\b)?|{TREE}|Pow\((?!\s*\*)|(?:{'|'.join(FUNCTIONS)})\b"
    r"|\d{1,19}(?:\.\d{1,19})?(?![\w.])|\)\*\*\d\b|\*(?!\*)|[-+/%(),<>=!&|~]"
)
STRUCTURE = re.compile(r"(Pow)?\(|(, Integer\(\d\))?\)(\*\*)?|,")
# A power of a power of a number of 19 digits has 1500 of them; one more power would have 14000, and so on.
MOST_POWERS = 2
CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
METADATA = ("nn_module_stack",)


def checked_archive(path: Path) -> io.BytesIO:
    """The archive again, of nothing but what was checked; without examples of inputs, notes on the source, and guards.

    >>> torch.export.load(checked_archive(Path("resnet18.pt2")))

    Raises:
        UnsafeFileError: reading it would run, or could run, what the file says.
        FileError: it is damaged, or of another age than torch is.
    """
    entries = read_entries(path, KNOWN, IGNORED)
    for needed in (GRAPH, WEIGHTS, CONSTANTS):
        if needed not in entries:
            raise FileError(
                f"{path} is a torch.export archive without {needed}, which those of today have; save it again."
            )
    try:
        graph = json.loads(entries[GRAPH])
        for config in (WEIGHTS, CONSTANTS):
            _check_payloads(json.loads(entries[config])["config"], config, entries)
        graph["guards_code"] = []
        _check(graph)
    except Unsafe as found:
        raise UnsafeFileError(f"{path} {found}; {REFUSED}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} is a damaged torch.export archive; save or copy it again.") from error
    return packed(entries | {GRAPH: json.dumps(graph).encode(), SAMPLES: b""})


def _check_payloads(config: dict[str, Any], of: str, entries: dict[str, bytes]) -> None:
    folder = of.rpartition("/")[0]
    for name, payload in config.items():
        _check_dotted(name)
        place = f"{folder}/{payload['path_name']}"
        if payload["use_pickle"] or not PAYLOAD.fullmatch(place):
            raise Unsafe(f"holds {name!r} as a pickle")
        # Of an empty record torch makes zeros of the size that is declared.
        if not entries[place] and all(size["as_int"] for size in payload["tensor_meta"]["sizes"]):
            raise ValueError(name)


def _check(value: Any) -> None:
    """Look at everything below by the key that it has, which is what decides what torch does with it."""
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in CHECKS and item is not None and not isinstance(item, (dict, bool)):
                CHECKS[key](item)
            elif key == "range_constraints":
                for symbol in item:
                    _check_formula(symbol)
            elif key == "metadata":
                value[key] = {kept: item[kept] for kept in METADATA if kept in item}
                continue
            _check(item)


def _check_operator(name: str) -> None:
    if not is_known_operator(name):
        raise Unsafe(f"calls {name}, which is not among the operators that compute with tensors alone")


def _check_formula(text: str) -> None:
    if len(text) > 10_000 or TOKEN.sub("", text) or not _has_small_powers(text):
        raise Unsafe(f"has {text[:60]!r} in the place of a size")


def _has_small_powers(text: str) -> bool:
    """Return whether every power has a one-digit exponent and is nested at most once."""
    groups: list[list[Any]] = [
        ["", 0, 0]
    ]  # of each open parenthesis: what stands before it, its commas, the powers inside
    for found in STRUCTURE.finditer(text):
        if found[0] == ",":
            groups[-1][1] += 1
        elif found[0].endswith("("):
            groups.append([found[1] or "", 0, 0])
        else:
            kind, commas, powers = groups.pop()
            powers += bool(kind) + bool(found[3])
            if not groups or powers > MOST_POWERS or (kind and (commas or not found[2])):
                return False
            groups[-1][2] = max(groups[-1][2], powers)
    return len(groups) == 1


def _check_name(name: str) -> None:
    # Torch writes names into code, and runs that.
    if name and not name.isidentifier():
        raise Unsafe(f"has {name[:60]!r} in the place of a name")


def _check_names(names: list[str]) -> None:
    for name in names:
        _check_name(name)


def _check_dotted(name: str) -> None:
    if not name.isprintable() or set(name) & set("\"'\\"):
        raise Unsafe(f"has {name[:60]!r} in the place of a name")


def _check_arguments(text: str) -> None:
    # Those of keywords become arguments of a function.
    _check_containers(json.loads(text)[1], _check_name)


def _check_results(text: str) -> None:
    _check_containers(json.loads(text)[1], _check_dotted)


def _check_containers(spec: dict[str, Any], check_key: Callable[[str], None]) -> None:
    context = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
    if spec["type"] not in CONTAINERS or not isinstance(context, (list, type(None))):
        raise Unsafe(f"takes or gives a {spec['type']}, and only tuples, lists and dicts are known")
    for key in context or ():
        if not isinstance(key, (str, int)):
            raise Unsafe(f"has a key of a dict that is a {type(key).__name__}")
        check_key(str(key) if isinstance(key, str) else "")
    for child in spec["children_spec"]:
        _check_containers(child, check_key)


def _refuse_object(name: str) -> None:
    raise Unsafe(f"holds an object of the class {name}")


CHECKS: dict[str, Callable[[Any], None]] = {
    "target": _check_operator,
    "as_operator": _check_operator,
    "expr_str": _check_formula,
    "name": _check_name,
    "as_name": _check_name,
    "in_spec": _check_arguments,
    "out_spec": _check_results,
    "forward_arg_names": _check_names,
    "parameter_name": _check_dotted,
    "buffer_name": _check_dotted,
    "tensor_constant_name": _check_dotted,
    "user_input_name": _check_name,
    "fqn": _check_dotted,
    "class_fqn": _refuse_object,
}
