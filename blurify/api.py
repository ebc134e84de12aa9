"""The steps in a row: trace, plan, rewrite. Arguments are checked here, once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from blurify.errors import (
    ArgumentError,
    ArgumentTypeError,
    BlurifyError,
    GridWarning,
    NoEffectWarning,
    TraceError,
    first_line,
)
from blurify.filters import FilterLike
from blurify.graph.module import TracedModule
from blurify.planning.decide import ShapesOf, decide
from blurify.planning.plan import Plan, moved_grid
from blurify.planning.spec import DEFAULT_STRENGTH, Spec
from blurify.rewriting.carrying import FORMS, carried_out
from blurify.rewriting.partial import Parts
from blurify.sites import Reason
from blurify.tracing import trace
from blurify.tracing.export import quietly
from blurify.tracing.fed import Fed
from blurify.tracing.inputs import Inputs, as_inputs, example_for
from blurify.tracing.shapes import Shapes, node_shapes
from blurify.tracing.wrappers import COMPILED

M = TypeVar("M", bound=nn.Module)

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    class Options(TypedDict, total=False):
        """The arguments of `antialias` that do not decide the type of its result."""

        filter: FilterLike | Mapping[str, FilterLike]
        strength: float | Mapping[str, float]
        pad_type: str
        stem: bool
        patch_embed: bool
        upsample: bool
        include: Iterable[str]
        exclude: Iterable[str]
        grid: str
        antialias_resize: bool
        example_inputs: Any
        example_kwargs: Mapping[str, Any] | None
        inplace: bool
        optimize: bool
        partial: bool


QUANTIZED_HOMES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def plan(
    model: nn.Module,
    filt_size: int | Mapping[str, int] | None = None,
    *,
    filter: FilterLike | Mapping[str, FilterLike] = "binomial",
    strength: float | Mapping[str, float] = DEFAULT_STRENGTH,
    pad_type: str = "reflect",
    stem: bool = False,
    patch_embed: bool = False,
    upsample: bool = False,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    grid: str = "published",
    antialias_resize: bool = True,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> Plan:
    """Decide what `antialias` would do, and do nothing.

    >>> import torchvision
    >>> print(plan(torchvision.models.vgg16(), filt_size=3))  # doctest: +ELLIPSIS
    site         kind  stride  action   filter  landing or reason
    features.4   max   2       rewrite  3       after features.4
    ...

    Takes `antialias`'s arguments and raises its errors.
    """
    spec = Spec.of(
        filt_size,
        filter=filter,
        strength=strength,
        pad_type=pad_type,
        stem=stem,
        patch_embed=patch_embed,
        upsample=upsample,
        include=include,
        exclude=exclude,
        grid=grid,
        antialias_resize=antialias_resize,
    )
    return trace_and_plan(model, spec, as_inputs(example_inputs, example_kwargs), partial)[1]


@overload
def antialias(
    model: nn.Module,
    filt_size: int | Mapping[str, int] | None = ...,
    *,
    form: Literal["graph"],
    keep_class: Literal[False] | None = ...,
    **options: Unpack[Options],
) -> TracedModule: ...
@overload
def antialias(
    model: M,
    filt_size: int | Mapping[str, int] | None = ...,
    *,
    form: Literal["class"],
    keep_class: Literal[True] | None = ...,
    **options: Unpack[Options],
) -> M: ...
@overload
def antialias(
    model: M,
    filt_size: int | Mapping[str, int] | None = ...,
    *,
    form: Literal["class"] | None = ...,
    keep_class: Literal[True],
    **options: Unpack[Options],
) -> M: ...
@overload
def antialias(
    model: nn.Module,
    filt_size: int | Mapping[str, int] | None = ...,
    *,
    form: str | None = ...,
    keep_class: bool | None = ...,
    **options: Unpack[Options],
) -> nn.Module: ...
def antialias(
    model: nn.Module,
    filt_size: int | Mapping[str, int] | None = None,
    *,
    filter: FilterLike | Mapping[str, FilterLike] = "binomial",
    strength: float | Mapping[str, float] = DEFAULT_STRENGTH,
    pad_type: str = "reflect",
    stem: bool = False,
    patch_embed: bool = False,
    upsample: bool = False,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    grid: str = "published",
    antialias_resize: bool = True,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    inplace: bool = False,
    optimize: bool = True,
    form: str | None = None,
    keep_class: bool | None = None,
    partial: bool = False,
) -> nn.Module:
    """Return `model` with every downsampling rewritten into blur-then-subsample, its weights carried over.

    >>> import torchvision
    >>> model = torchvision.models.resnet18()
    >>> smooth = antialias(model, filt_size=4)
    >>> smooth.load_state_dict(model.state_dict())
    <All keys matched successfully>

    The result's `state_dict` has the original's names, in its order. Its `meta["blurify"]` is the `Plan` that was
    carried out, and `meta["blurify_form"]` is "class" or "graph". `.train()` and `.eval()` do what they did before.
    The method is that of Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML 2019), section 3.2.

    Args:
        model: any module that `torch.fx` can trace. It is left as found.
        filt_size: size of the filter, or a mapping from glob pattern on site names to sizes, where the first match
            counts and no match means the filter's own: 4 taps of the binomial one.
        filter: the family of the filter: `binomial`, `halfband`, `lanczos`, `kaiser`, `gaussian` or `ideal`, taps such
            as `[1, 4, 6, 4, 1]`, a `blurify.filters.Filter`, or a mapping like `filt_size`'s. The binomial filter is
            the published one, to train with; sharper ones keep more of what a network's own weights compute.
        strength: how much of that filter, from 0 to 1, or a mapping like `filt_size`'s, where no match means 1. Along
            each axis the taps are `(1 - strength) * delta + strength * filter`; at 0 the site is kept. In the place
            of an average, the average's output is mixed with the blurred one.
        pad_type: `reflect`, `replicate`, `zero`, `zero-renorm` (zeros, border taps rescaled to sum 1) or `circular`.
        stem: rewrite the convs fed by the model's input as well.
        patch_embed: rewrite the convs that cut their input, or a map of tokens, into patches without overlap as well.
        upsample: blur after transposed convs and nearest upsampling, as Zhang advises for generators.
        include: glob patterns; if any are given, only matching sites are rewritten. A stem named exactly is wanted.
        exclude: glob patterns; matching sites are kept.
        grid: where even filters have their extra tap: `published` always on the right, so that each site moves the
            sampling grid half a position; `centered` on the side that keeps the outputs, or the last map, in place.
        antialias_resize: let bilinear and bicubic resizes that shrink be antialiased by PyTorch; without, they are
            blurred and resized plainly, which more engines can do.
        example_inputs: a tensor, a dict or a tuple of the model's arguments, for what depends on sizes. By default the
            model's own `default_cfg` tells the size, else it is 3x224x224.
        example_kwargs: keyword arguments of the model, beside `example_inputs`.
        inplace: let the result use the model's own parameters and buffers instead of copies, so that an optimizer made
            before goes on working. The model object itself keeps its structure.
        optimize: remove arithmetic that the outputs do not need (`blurify.optimizing`): a blur after a 1x1 conv moves
            before it, for one. `meta["optimized"]` says what was done.
        form: "class" for a copy of `model` of its own class, which keeps its methods and attributes: strides become 1
            on its modules, and modules blur. "graph" for a `torch.fx.GraphModule`. "auto" for the class wherever
            modules can express every rewritten site, and the graph elsewhere, which is the default.
        keep_class: another name for `form`: True means "class", False means "graph".
        partial: convert what can be converted. Of a model that cannot be traced whole, these are its largest parts that
            can: the result is a copy of the model's own class with these parts converted, and the plan's `parts` say
            which they are, and which were left and why. With `form="class"`, sites that no module can be changed for
            are kept.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not allowed, or a pattern matches no site.
        TraceError: `forward` cannot be recorded.
        PlanError: modules cannot express all sites, and the form is "class" without `partial`.

    Warns:
        NoEffectWarning: there was nothing to rewrite.
        GridWarning: the sampling grid of an output that is a map, or made of maps, moves by a pixel or more.
        HooksWarning: the result is a graph, and hooks of modules that it does not call are lost.
        OmissionWarning: the result is a graph, which leaves out something that `forward` does.
    """
    spec = Spec.of(
        filt_size,
        filter=filter,
        strength=strength,
        pad_type=pad_type,
        stem=stem,
        patch_embed=patch_embed,
        upsample=upsample,
        include=include,
        exclude=exclude,
        grid=grid,
        antialias_resize=antialias_resize,
    )
    wanted = form_of(form, keep_class)
    inputs = as_inputs(example_inputs, example_kwargs)
    traced, made = trace_and_plan(model, spec, inputs, partial)
    if traced is None and form is None and keep_class is None:
        wanted = "auto"  # others read the attributes of a part
    if not made.rewritten:
        warnings.warn(no_effect(type(model).__name__, made), NoEffectWarning, stacklevel=2)
    if made.moved:
        warnings.warn(moved_grid(made), GridWarning, stacklevel=2)
    return carried_out(made, model, traced, inputs, wanted, inplace, optimize=optimize, partial=partial)


def form_of(form: str | None, keep_class: bool | None) -> str:
    """Return the form that the arguments ask for.

    >>> form_of(None, True)
    'class'

    Raises:
        ArgumentError: the form is unknown, or the two arguments disagree.
    """
    named = None if keep_class is None else "class" if keep_class else "graph"
    if form is not None and form not in FORMS:
        raise ArgumentError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}.")
    if form and named and form != named:
        raise ArgumentError(f"keep_class={keep_class} means form={named!r}, but form={form!r} was given; give one.")
    return form or named or "auto"


def trace_and_plan(
    model: nn.Module, spec: Spec, inputs: Inputs | None, partial: bool = False
) -> tuple[TracedModule | None, Plan]:
    """The first two steps: the traced model, or None where only its parts can be traced, and what becomes of it."""
    try:
        traced = trace(check_model(model), inputs)
    except TraceError as error:
        if not partial:
            raise TraceError(f"{error}{way_out(model, spec)}") from error
        return None, plan_in_parts(model, spec, inputs, error)
    return traced, make_plan(model, traced, spec, inputs)


def way_out(model: nn.Module, spec: Spec) -> str:
    """Say that `partial` converts something of a model that cannot be traced whole, if it does."""
    try:
        found = Parts(model, spec, make_plan, None).first()
    except BlurifyError:
        return ""
    return f" Or convert what can be traced, {found!r} for one, with partial=True (--partial)." if found else ""


def plan_in_parts(model: nn.Module, spec: Spec, inputs: Inputs | None, error: TraceError) -> Plan:
    """Decide for the parts of a model that can be traced.

    Raises:
        TraceError: there are none with a site to rewrite.
        ArgumentError: the model does not run on the given inputs.
    """
    fed = Fed(model, example_for(model) if inputs is None else inputs)
    if fed.error is not None and inputs is not None:
        raise ArgumentError(f"{type(model).__name__} does not run on the given example_inputs: {first_line(fed.error)}")
    made = Parts(model, spec, make_plan, fed).plan()
    if made.rewritten:
        return made
    stopped = f" It does not run on the assumed input either: {first_line(fed.error)}." if fed.error else ""
    raise TraceError(f"{error} None of its parts that can be traced has a site to rewrite.{stopped}") from error


def check_model(model: object) -> nn.Module:
    """Return the model if it is one that can be traced at all."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, got {model!r} of type {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentTypeError("The model is a TorchScript module, whose Python is gone; pass the original nn.Module.")
    if hasattr(model, COMPILED):
        raise ArgumentTypeError("The model is compiled; pass the module given to torch.compile (its _orig_mod).")
    lazy = next((name for name, value in [*model.named_parameters(), *model.named_buffers()] if is_lazy(value)), None)
    if lazy is not None:
        raise ArgumentTypeError(
            f"The model's {lazy!r} has no size yet, since its layer is lazy; run the model once first."
        )
    quantized = next((path for path, module in model.named_modules() if is_quantized(module)), None)
    if quantized is not None:
        raise ArgumentTypeError(
            f"The model is quantized (at {quantized!r}); convert the float model, then quantize that."
        )
    return model


def is_quantized(module: nn.Module) -> bool:
    """Return whether the module takes or gives integers in place of the numbers it was trained with."""
    kind = type(module)
    # FloatFunctional is what a float model is prepared with; dynamically quantized layers take and give floats.
    takes_floats = ".dynamic." in kind.__module__ or any(
        name in kind.__name__ for name in ("FloatFunctional", "Packed")
    )
    return kind.__module__.startswith(QUANTIZED_HOMES) and not takes_floats


def make_plan(model: nn.Module, traced: TracedModule, spec: Spec, inputs: Inputs | None) -> Plan:
    """Decide for a traced model."""
    decisions, outputs = decide(traced, spec, lazy_shapes(model, traced, inputs))
    return Plan(decisions, outputs=outputs)


def lazy_shapes(model: nn.Module, traced: TracedModule, inputs: Inputs | None) -> ShapesOf:
    """Compute a site's input when first asked for: most plans never need it."""
    known: dict[str, Shapes] | None = None

    def shapes_of(path: str) -> Shapes:
        nonlocal known
        if known is None:
            known = _shapes(model, traced, inputs)
        return known.get(path, (None, None))

    return shapes_of


def _shapes(model: nn.Module, traced: TracedModule, inputs: Inputs | None) -> dict[str, Shapes]:
    try:
        with quietly():
            return node_shapes(traced, example_for(model) if inputs is None else inputs)
    except Exception as error:
        if inputs is None:
            # The assumed size may simply not suit the model; then no decision depends on it.
            return {}
        raise ArgumentError(
            f"{type(model).__name__} does not run on the given example_inputs: {first_line(error)}"
        ) from error


def no_effect(name: str, made: Plan) -> str:
    """Say why nothing of what is called so was rewritten."""
    if not made.decisions:
        return f"nothing to do: {name} has no strided pooling or convolution."
    reasons = sorted({d.reason.sentence for d in made.kept if d.reason})
    if all(d.reason in (Reason.ALREADY_ANTIALIASED, Reason.STEM) for d in made.kept) and any(
        d.reason is Reason.ALREADY_ANTIALIASED for d in made.kept
    ):
        return f"nothing to do: {name} is already antialiased."
    return f"nothing to do: each of the {len(made.kept)} sites of {name} is kept: {'; '.join(reasons)}."
