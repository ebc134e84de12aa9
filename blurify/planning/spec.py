"""Arguments of a conversion, frozen and by site."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from blurify.checks import check_bool, check_grid, check_int, check_pad_type, check_patterns, check_strength
from blurify.errors import ArgumentError
from blurify.filters import Filter, FilterLike, as_filter

DEFAULT_FILT_SIZE = 4
DEFAULT_STRENGTH = 1.0
V = TypeVar("V")
# The arguments of a conversion, by which every command and registry asks for one.
ARGUMENTS = (
    *("filt_size", "filter", "strength", "pad_type", "stem", "patch_embed", "upsample", "include", "exclude"),
    *("grid", "antialias_resize"),
)


def matches(site: str, patterns: Iterable[str]) -> bool:
    """Return whether a dotted site name matches any of the glob patterns."""
    return any(fnmatchcase(site, pattern) for pattern in patterns)


def by_pattern(
    name: str, value: object | Mapping[str, object], check: Callable[[str, object], V]
) -> tuple[tuple[str, V], ...]:
    """Return glob patterns with a checked value each; a lone value is that of all sites."""
    values = dict(value) if isinstance(value, Mapping) else {"*": value}
    if not values:
        raise ArgumentError(f"{name} is an empty mapping; give a number, or patterns with one each.")
    for pattern in values:
        check_patterns(name, (pattern,))
    return tuple(
        (pattern, check(name if pattern == "*" else f"{name} of {pattern!r}", each)) for pattern, each in values.items()
    )


def first_match(site: str, values: Iterable[tuple[str, V]], default: V) -> V:
    """Return the value of the first pattern that matches the site's name."""
    return next((value for pattern, value in values if fnmatchcase(site, pattern)), default)


@dataclass(frozen=True)
class Spec:
    """Hold the arguments of a conversion.

    >>> Spec.of({"layer1.*": 3, "*": 5}, include="layer?.*").filt_size_at("layer1.0.conv1")
    3
    """

    filt_sizes: tuple[tuple[str, int], ...] = ()
    filters: tuple[tuple[str, Filter], ...] = (("*", Filter()),)
    strengths: tuple[tuple[str, float], ...] = (("*", DEFAULT_STRENGTH),)
    pad_type: str = "reflect"
    stem: bool = False
    patch_embed: bool = False
    upsample: bool = False
    include: tuple[str, ...] = field(default=())
    exclude: tuple[str, ...] = field(default=())
    grid: str = "published"
    antialias_resize: bool = True
    # Of a part of a model: the names that the whole has for its sites, and whether other modules are before it.
    rename: Callable[[str], str] | None = None
    inner: bool = False
    # Of many models: a pattern need not match a site of each.
    lenient: bool = False

    @classmethod
    def of(
        cls,
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
    ) -> Spec:
        """Validate the arguments of `antialias` and freeze them."""
        sizes = () if filt_size is None else by_pattern("filt_size", filt_size, lambda name, n: check_int(name, n, 1))
        spec = cls(
            sizes,
            by_pattern("filter", filter, lambda _, value: as_filter(value)),
            by_pattern("strength", strength, check_strength),
            check_pad_type(pad_type),
            check_bool("stem", stem),
            check_bool("patch_embed", patch_embed),
            check_bool("upsample", upsample),
            check_patterns("include", include),
            check_patterns("exclude", exclude),
            check_grid(grid),
            check_bool("antialias_resize", antialias_resize),
        )
        spec.check_filters()
        return spec

    def check_filters(self) -> None:
        """Refuse sizes that no filter has, and an ideal filter without the padding that it assumes."""
        if any(pattern == "*" for pattern, _ in self.filt_sizes) and len(self.filters) == 1:
            self.filter_at("")
        if self.pad_type != "circular" and any(each.is_ideal for _, each in self.filters):
            raise ArgumentError(
                f"The ideal filter takes a map to be periodic, which pad_type {self.pad_type!r} does not; use "
                "pad_type='circular' (--pad-type circular)."
            )

    def of_part(self, rename: Callable[[str], str], inner: bool) -> Spec:
        """Return the same for a part of the model, whose sites the whole names otherwise."""
        return replace(self, rename=rename, inner=inner)

    def name(self, site: str) -> str:
        """Return the name by which the user knows the site."""
        return site if self.rename is None else self.rename(site)

    def filter_at(self, site: str) -> Filter:
        """Return the filter of the first pattern that matches, of the first size and strength that do.

        Raises:
            ArgumentError: the filter does not have the size.
        """
        chosen = first_match(self.name(site), self.filters, Filter())
        size = first_match(self.name(site), self.filt_sizes, chosen.size)
        return replace(chosen, size=size, strength=chosen.strength * self.strength_at(site))

    def filt_size_at(self, site: str) -> int:
        """Return the size of the filter at a site."""
        return self.filter_at(site).size

    def strength_at(self, site: str) -> float:
        """Return the strength of the first pattern that matches, else the default."""
        return first_match(self.name(site), self.strengths, DEFAULT_STRENGTH)

    def includes(self, site: str) -> bool:
        """Return whether `include` lets the site through (no pattern lets all through)."""
        return not self.include or matches(self.name(site), self.include)

    def excludes(self, site: str) -> bool:
        """Return whether `exclude` names the site."""
        return matches(self.name(site), self.exclude)

    def wants_stem(self, site: str) -> bool:
        """Return whether a stem is asked for: by `stem=True`, or by its exact name among `include`."""
        return self.stem or self.name(site) in self.include

    def wants_patch_embed(self, site: str) -> bool:
        """Return whether a patch embedding is asked for, by `patch_embed=True` or by its exact name among `include`."""
        return self.patch_embed or self.name(site) in self.include

    def check_patterns_match(self, sites: Sequence[str]) -> None:
        """Raise for a pattern that matches no site: it is a typing error, and silence would hide it."""
        # Of a part, the whole has other sites too.
        unmatched = [] if self.lenient or self.rename is not None else self.unmatched(sites)
        if unmatched:
            raise ArgumentError(unmatched[0])

    def unmatched(self, sites: Sequence[str]) -> list[str]:
        """Return a sentence for each pattern that matches none of the sites, with the nearest of them."""
        named = [("include", p) for p in self.include] + [("exclude", p) for p in self.exclude]
        named += [("filt_size", p) for p, _ in self.filt_sizes if p != "*"]
        named += [("filter", p) for p, _ in self.filters if p != "*"]
        named += [("strength", p) for p, _ in self.strengths if p != "*"]
        return [
            f"{argument} pattern {pattern!r} matches no site of this model; the nearest of its "
            f"{len(sites)} sites are {', '.join(nearest(pattern, sites))}."
            for argument, pattern in named
            if sites and not matches_any(pattern, sites)
        ]


def matches_any(pattern: str, sites: Iterable[str]) -> bool:
    """Return whether a glob pattern matches one of the sites."""
    return any(fnmatchcase(site, pattern) for site in sites)


def nearest(pattern: str, sites: Sequence[str]) -> list[str]:
    """Return the sites whose names are most like the pattern."""
    return difflib.get_close_matches(pattern, sites, n=3, cutoff=0.3) or list(sites[:3])
