"""Options that `convert` and `plan` share, parsed into plain values before anything slow is imported."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from blurify.byte_sizes import parse_size, size_text
from blurify.errors import ArgumentError
from blurify.filters import as_filter

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

Command = TypeVar("Command", bound=Callable[..., Any])
V = TypeVar("V")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True)
class Request:
    """The shared options of one command line."""

    model: str
    filt_size: int | dict[str, int] | None
    filter: str | dict[str, str]
    strength: float | dict[str, float]
    pad_type: str
    stem: bool
    patch_embed: bool
    upsample: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    arch: str | None
    allow: tuple[str, ...]
    input_size: tuple[int, ...] | None
    pretrained: bool
    ema: bool
    max_size: int | None
    allow_package: tuple[str, ...] = ()
    key: str | None = None
    backbone: bool = False
    grid: str = "published"
    antialias_resize: bool = True
    chose_filter: bool = True  # or took the default
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def reading(self) -> dict[str, Any]:
        """What `read_model` is told, besides the name."""
        return {name: getattr(self, name) for name in READING}


# The options of `blurify.files.options.ReadOptions` that the command line has.
READING = ("arch", "allow", "allow_package", "pretrained", "ema", "key", "backbone", "max_size", "input_size")


def request_of(options: dict[str, Any]) -> Request:
    """Return the shared options of the command that runs."""
    context, default = click.get_current_context(), click.core.ParameterSource.DEFAULT
    chose = any(context.get_parameter_source(name) is not default for name in ("filt_size", "filter"))
    return Request(**options, chose_filter=chose)


def model_options(command: Command) -> Command:
    """Add MODEL and the options that decide what becomes of it."""
    return click.argument("model")(conversion_options(_INPUTS(reading_options(command))))


def choosing_options(command: Command) -> Command:
    """Add the same, with a filter that is chosen by default."""
    decorated = model_options(command)
    for parameter in getattr(decorated, "__click_params__", ()):
        if parameter.name == "filter":
            parameter.default, parameter.help = (AUTO,), _FILTER_HELP.format(f"{AUTO}, which tries several")
    return decorated


def named(request: Request) -> str:
    """Return the filter as it is part of a file's name; of several, nothing.

    >>> named(request)
    '4'
    """
    if isinstance(request.filter, dict) or isinstance(request.filt_size, dict):
        return ""
    chosen = as_filter(request.filter)
    return str(chosen if request.filt_size is None else replace(chosen, size=request.filt_size)).replace(" ", "")


def default_output(request: Request, suffix: str) -> Path:
    """Return the default output of a conversion.

    >>> default_output(request, ".pt")  # for models/net.pth at filter size 4
    PosixPath('models/net.blur4.pt')
    """
    return output_next_to(request.model, f".blur{named(request)}{suffix}")


def output_next_to(model: str, ending: str) -> Path:
    """Return a file's or folder's name with another ending, next to it; for an architecture, in the current folder.

    >>> output_next_to("timm:resnet18", ".recovered.pt")
    PosixPath('resnet18.recovered.pt')
    """
    source = Path(model.removeprefix("local-dir:"))
    source = source.resolve() if source.is_dir() else source
    if source.exists() or ":" not in model:
        return source.with_name(f"{source.stem}{ending}")
    return Path(f"{model.partition('?')[0].rpartition(':')[2]}{ending}")


def conversion_options(command: Command) -> Command:
    """Add the options of a conversion, which `blurify.planning.spec.ARGUMENTS` names."""
    for decorate in reversed(_CONVERSION):
        command = decorate(command)
    return command


def reading_options(command: Command) -> Command:
    """Add the options that say how a model is read."""
    for decorate in reversed(_READING):
        command = decorate(command)
    return command


def let_user_modules_in(arch: str | None, allow: tuple[str, ...]) -> None:
    """Make modules of the current folder importable, if the user named any.

    Last on the path, so that a file lying there cannot stand in for an installed package.
    """
    if (arch or allow) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _filt_sizes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> int | dict[str, int] | None:
    if not values:
        return None

    def size(text: str) -> int | None:
        return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None

    return _by_pattern(values, size, "size", "a size from 1 up, nor PATTERN=SIZE such as 'layer1.*=3'")


def _filters(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str | dict[str, str]:
    def read(text: str) -> str:
        if text == AUTO and values == parameter.default:
            return text
        try:
            as_filter(text)
        except ArgumentError as error:
            raise click.BadParameter(str(error)) from error
        return text

    return _by_pattern(values, read, "filter", "a filter, nor PATTERN=FILTER such as 'layer1.*=lanczos'")


def _strengths(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> float | dict[str, float]:
    def strength(text: str) -> float | None:
        return float(text) if _NUMBER.fullmatch(text) and 0 <= float(text) <= 1 else None

    return _by_pattern(values, strength, "strength", "a strength from 0 to 1, nor PATTERN=STRENGTH as in 'layer1.*=.5'")


def _by_pattern(values: tuple[str, ...], read: Callable[[str], V | None], name: str, form: str) -> V | dict[str, V]:
    """Turn `5`, or `layer1.*=3` and `5`, into a value or a mapping whose default comes last, as first match wins."""
    found: dict[str, V] = {}
    for value in values:
        pattern, equals, text = value.rpartition("=")
        pattern = pattern if equals else "*"
        number = read(text)
        if (equals and not pattern) or number is None:
            raise click.BadParameter(f"{value!r} is not {form}.")
        if pattern in found:
            raise click.BadParameter(f"The {name} of {pattern!r} is given twice.")
        found[pattern] = number
    if "*" in found:
        found["*"] = found.pop("*")
    return found["*"] if set(found) == {"*"} else found


def _input_size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.replace("x", ",").split(",")
    if not 2 <= len(parts) <= 4 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not channels and sizes, such as 3,224,224.")
    return tuple(int(part) for part in parts)


def _inputs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Turn `image=1,3,224,224` into sizes by name."""
    found: dict[str, tuple[int, ...]] = {}
    for value in values:
        name, _equals, sizes = value.rpartition("=")
        parts = sizes.replace("x", ",").split(",")
        if not name or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise click.BadParameter(f"{value!r} is not NAME=SIZES, such as image=1,3,224,224.")
        found[name] = tuple(map(int, parts))
    return found


def byte_size(least: int = 1) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Return a callback that turns `500MB` into a number of bytes and refuses fewer than `least`."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            size = parse_size(value)
        except ArgumentError as error:
            raise click.BadParameter(str(error)) from error
        if size < least:
            raise click.BadParameter(f"{value!r} is too small; give {size_text(least)} or more.")
        return size

    return read


def channel_values(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Turn `0.5,0.5,0.5` into numbers, one for each channel."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number for each channel, such as 0.5,0.5,0.5.") from None


# Of `blurify.files.FORMATS`, which cannot be imported before something slow is.
FORMAT_NAMES = ("native", "safetensors", "module", "pt2", "onnx", "torchscript")
format_option = click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMAT_NAMES),
    help="What to write.  [default: by the suffix of -o; else native where the architecture is known, or module]",
)


# Of `blurify.rewriting.carrying.FORMS`, which cannot be imported before something slow is.
_FORM = click.option(
    "--form",
    "model_form",
    type=click.Choice(["auto", "class", "graph"]),
    default="auto",
    show_default=True,
    help="The converted model: the model's own class, a graph, or the class wherever modules can express it.",
)
_KEEP_CLASS = click.option("--keep-class", "model_form", flag_value="class", help="The same as --form class.")


def form_option(command: Command) -> Command:
    """Add the option that chooses the form of the converted model."""
    return _FORM(_KEEP_CLASS(command))


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta["debug"] = True  # shared with the parent context


debug_option = click.option(
    "--debug",
    is_flag=True,
    envvar="BLURIFY_DEBUG",
    expose_value=False,
    callback=_set_debug,
    help="Show the traceback of a failure.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")

_INPUTS = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=SIZES",
    callback=_inputs,
    help="Sizes of one input of an ONNX graph, such as image=1,3,224,224. Repeatable.",
)

# Of `recover` alone, which tries filters.
AUTO = "auto"
_FILTER_HELP = (
    "Filter of the blur: binomial, halfband, lanczos, kaiser, gaussian, ideal, or taps such as 1,4,6,4,1; with a "
    "pattern, of the sites it matches. Repeatable.  [default: {}]"
)

_CONVERSION: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--filt-size",
        multiple=True,
        metavar="N|PATTERN=N",
        callback=_filt_sizes,
        help="Size of the filter; with a pattern, of the sites it matches. Repeatable.  [default: the filter's own; 4 "
        "of binomial, but of one model 3 where the grid of an output would move by more than a pixel]",
    ),
    click.option(
        "--filter",
        multiple=True,
        default=("binomial",),
        metavar="F|PATTERN=F",
        callback=_filters,
        help=_FILTER_HELP.format("binomial"),
    ),
    click.option(
        "--strength",
        multiple=True,
        default=("1",),
        metavar="A|PATTERN=A",
        callback=_strengths,
        help="How much of the blur, 0 to 1; with a pattern, of the sites it matches. Repeatable.  [default: 1]",
    ),
    click.option(
        "--pad-type",
        type=click.Choice(["reflect", "replicate", "zero", "zero-renorm", "circular"]),
        default="reflect",
        show_default=True,
        help="What the blur sees beyond the edge.",
    ),
    click.option(
        "--grid",
        type=click.Choice(["published", "centered"]),
        default="published",
        show_default=True,
        help="Where even filters have their extra tap: on the right, or where the outputs' positions stay in place.",
    ),
    click.option(
        "--antialias-resize/--no-antialias-resize",
        default=True,
        show_default=True,
        help="Shrink by PyTorch's antialiased resize where the mode has one, or blur and resize plainly.",
    ),
    click.option("--stem", is_flag=True, help="Blur the first convolution too (the published networks do not)."),
    click.option("--patch-embed", is_flag=True, help="Blur patch embeddings too (convs that cut without overlap)."),
    click.option("--upsample", is_flag=True, help="Blur after transposed convs and nearest upsampling too."),
    click.option("--include", multiple=True, metavar="GLOB", help="Rewrite only sites that match. Repeatable."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Keep sites that match. Repeatable."),
)

_READING: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--arch",
        metavar="NAME",
        help="Architecture of a state_dict: timm:NAME, torchvision:NAME, hf:FOLDER, smp:, open_clip:, monai:NAME or "
        "package.module:factory, then ?key=value.",
    ),
    click.option("--allow", multiple=True, metavar="CLASS", help="Let a pickle use package.module.Class. Repeatable."),
    click.option(
        "--input-size", callback=_input_size, metavar="C,H,W", help="Size of one input.  [default: the model's]"
    ),
    click.option("--pretrained", is_flag=True, help="Load the weights that timm or torchvision has for this name."),
    click.option(
        "--allow-package",
        multiple=True,
        metavar="PACKAGE",
        help="Let a pickle restore the classes of an installed package. Repeatable.",
    ),
    click.option("--ema", is_flag=True, help="Take a checkpoint's averaged weights (EMA) instead of the last ones."),
    click.option("--key", metavar="KEY", help="Take the weights under this key, where a checkpoint has several."),
    click.option("--backbone", is_flag=True, help="Let a state_dict lack the classifier, which is left random."),
    click.option(
        "--max-size", callback=byte_size(), metavar="SIZE", help="Refuse to read more than this, such as 2GB."
    ),
    debug_option,
)
