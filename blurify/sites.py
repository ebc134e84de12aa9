"""The words of a plan: kinds of site, reasons for keeping one, and the normalised site itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """Kind of operation that changes the resolution at a site; all but `UPSAMPLE` reduce it."""

    MAX = "max"
    AVG = "avg"
    CONV = "conv"
    BLUR = "blur"
    SLICE = "slice"
    UNFOLD = "unfold"
    RESIZE = "resize"
    UPSAMPLE = "upsample"
    OPAQUE = "opaque"

    def __str__(self) -> str:
        return self.value

    @property
    def traits(self) -> Traits:
        """Return the facts that hold for every site of this kind."""
        return TRAITS[self]


class Lands(Enum):
    """Place of the blur: before the op, at its output, or further on, behind what acts on every position alone."""

    BEFORE = "before"
    AT_ONCE = "at once"
    FURTHER = "further"


@dataclass(frozen=True)
class Traits:
    """Hold the facts that planning, rewriting and the proofs need of a kind of site, so that none asks for the kind.

    Args:
        lands: place of the blur. It also tells which node of the original has the size that the blur's output has: the
            landing if it is further on, else the site itself.
        windows: reads windows of its input's last dimensions, a step apart; a low-pass before it antialiases it.
        learnt: convolves with weights. The dense op is the same module at another stride, and stems are kept.
        averages: is a low-pass itself, in whose place a wide enough filter stands.
        resizes: samples at computed positions, with a filter of its own.
        grows: raises the resolution, and is blurred on request.
        rewritable: can be rewritten at all.
    """

    lands: Lands = Lands.AT_ONCE
    windows: bool = False
    learnt: bool = False
    averages: bool = False
    resizes: bool = False
    grows: bool = False
    rewritable: bool = True


TRAITS = {
    Kind.MAX: Traits(windows=True),
    Kind.AVG: Traits(windows=True, averages=True),
    Kind.CONV: Traits(Lands.FURTHER, windows=True, learnt=True),
    Kind.SLICE: Traits(Lands.BEFORE),
    Kind.RESIZE: Traits(windows=True, resizes=True),
    Kind.UPSAMPLE: Traits(grows=True),
    Kind.UNFOLD: Traits(rewritable=False),
    Kind.BLUR: Traits(rewritable=False),
    Kind.OPAQUE: Traits(rewritable=False),
}


class Action(str, Enum):
    """Action of the plan at a site."""

    REWRITE = "rewrite"
    KEEP = "keep"

    def __str__(self) -> str:
        return self.value


class Reason(str, Enum):
    """Why a site is kept. The value is what a plan's JSON says; `sentence` is what a user reads."""

    STEM = "stem"
    NOT_INCLUDED = "not_included"
    EXCLUDED = "excluded"
    ALREADY_ANTIALIASED = "already_antialiased"
    GLOBAL_POOL = "global_pool"
    RETURNS_INDICES = "returns_indices"
    SHARED_MODULE = "shared_module"
    UNKNOWN_SUBCLASS = "unknown_subclass"
    OPAQUE = "opaque"
    DYNAMIC = "dynamic"
    UNKNOWN_SIZE = "unknown_size"
    PATCH_EMBED = "patch_embed"
    ALL_PHASES = "all_phases"
    NOT_SPATIAL = "not_spatial"
    UPSAMPLING = "upsampling"
    PART_END = "part_end"
    UNEVEN = "uneven"
    RANDOM_WINDOWS = "random_windows"
    OFFSETS = "offsets"
    GAPS = "gaps"
    NO_MODULE = "no_module"
    NO_BLUR = "no_blur"
    UNKNOWN_OP = "unknown_op"
    OPEN_SIZE = "open_size"
    OLD_OPSET = "old_opset"
    NO_OPERATOR = "no_operator"

    def __str__(self) -> str:
        return self.value

    @property
    def sentence(self) -> str:
        """One sentence for a user."""
        return SENTENCES[self]


SENTENCES = {
    Reason.STEM: "fed by the model's input; the published networks keep it (ask for it with stem=True or --stem)",
    Reason.NOT_INCLUDED: "matches no include pattern",
    Reason.EXCLUDED: "matches an exclude pattern",
    Reason.ALREADY_ANTIALIASED: "already antialiased",
    Reason.GLOBAL_POOL: "pools the whole map into one position, so nothing is subsampled",
    Reason.RETURNS_INDICES: "gives maxima and indices as a pair that is not unpacked, so no map can be blurred",
    Reason.SHARED_MODULE: "its module is also called where it is kept, and cannot have two strides",
    Reason.UNKNOWN_SUBCLASS: "a subclass whose forward may not honour its stride",
    Reason.OPAQUE: "inside a module that the tracer does not look into",
    Reason.DYNAMIC: "its window is computed when the model runs",
    Reason.UNKNOWN_SIZE: "whether it shrinks depends on the size of its input, which is unknown (pass example_inputs)",
    Reason.PATCH_EMBED: "cuts its input into patches that do not overlap (ask for it with patch_embed=True)",
    Reason.ALL_PHASES: "every phase of the map is kept, moved to channels or windows, so nothing is lost",
    Reason.NOT_SPATIAL: "steps over one axis alone, or over axes that are not known to be those of a map",
    Reason.UNEVEN: "an adaptive pool that does not shrink its input by a whole factor",
    Reason.RANDOM_WINDOWS: "draws its windows at random, so there is no grid to blur on",
    Reason.OFFSETS: "its offsets are one per output position, so it cannot be computed at stride 1",
    Reason.GAPS: "its windows leave out positions of the map, and no value is computed that could be blurred",
    Reason.NO_MODULE: "no module can be changed for it, so a model that keeps its class keeps it",
    Reason.PART_END: "ends the part that can be traced, so the activation it should be blurred after is not seen",
    Reason.NO_BLUR: "a strength of 0 asks for no blur here",
    Reason.UNKNOWN_OP: "reduces resolution, unknown op",
    Reason.OPEN_SIZE: "its padding depends on the size of its map, which the file leaves open",
    Reason.OLD_OPSET: "its padding depends on the size of its map, and the file's opset has none that is computed",
    Reason.NO_OPERATOR: "is made of operators that are not rewritten in an ONNX graph",
    Reason.UPSAMPLING: "raises the resolution (ask for a blur after it with upsample=True)",
}


@dataclass(frozen=True)
class Site:
    """One call that reduces resolution, whatever its form: one entry per spatial axis in every tuple.

    `same` says that the op computes TensorFlow's SAME padding from its own stride. `dims` are the dimensions that a
    slice steps over, `output_size` what an adaptive pool was asked for. `refusal` is why the form cannot be rewritten.
    `pair` says that a pool gives its maxima and their indices, which somebody reads.
    A pool written `by_hand` in several calls reads the map that the node at the path `source` gives.
    """

    kind: Kind
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None
    same: bool = False
    dims: tuple[int, ...] = ()
    output_size: tuple[int | None, ...] = ()
    refusal: Reason | None = None
    by_hand: bool = False
    pair: bool = False
    source: str = ""

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)

    @property
    def dense_stride(self) -> tuple[int, ...]:
        """The stride that the dense op keeps, per axis: 1, or half of a conv's even stride above 2.

        Zhang's AlexNet blurs its stride-4 conv so: at stride 1 it would cost 16 times the arithmetic.
        """
        if self.same or not self.kind.traits.learnt:
            return (1,) * self.axes
        return tuple(s // 2 if s > 2 and s % 2 == 0 else 1 for s in self.stride)

    @property
    def blur_stride(self) -> tuple[int, ...]:
        """Return the stride that remains for the blur."""
        return tuple(s // d for s, d in zip(self.stride, self.dense_stride, strict=True))


def per_axis(value: int | tuple[int, ...] | list[int], axes: int) -> tuple[int, ...]:
    """One integer per spatial axis."""
    if isinstance(value, int):
        return (value,) * axes
    return tuple(value) * axes if len(value) == 1 else tuple(value)
