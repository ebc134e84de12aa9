"""A size means the same to every option: GB is 10^9 bytes, GiB is 2^30, and a bare number means nothing."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from blurify.byte_sizes import parse_size, size_text
from blurify.cli.group import cli
from blurify.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4GiB", 4 * 2**30),
        ("4gib", 4 * 2**30),
        ("1.5 MiB", 3 * 2**19),
        ("2T", 2 * 10**12),
        ("100k", 10**5),
        (" 7B ", 7),
        ("4 KiB", 4096),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4", "0.5", "4000000000"])
def test_a_bare_number_is_refused_with_both_spellings(text: str) -> None:
    with pytest.raises(ArgumentError, match=f"{text}GB .* or {text}GiB "):
        parse_size(text)


@pytest.mark.parametrize("text", ["much", "", "-4GB", "0GB", "4Gi", "4iB", "4XB", "4GBGB", "nan", "1e3GB", "٤GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a size such as 500MB"):
        parse_size(text)


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 10**6, 1234567, 10**9 + 1, 4 * 2**30, 17 * 10**12])
def test_what_is_printed_is_read_as_no_less(count: int) -> None:
    assert count <= parse_size(size_text(count)) <= max(1000, 1.1 * count + 1000)


@pytest.mark.parametrize(
    "command",
    ["convert x --max-size", "recover x --images x --memory", "recover x --images x --max-size", "zoo x --memory"],
)
def test_every_option_that_takes_a_size_reads_it_alike(command: str) -> None:
    result = CliRunner().invoke(cli, [*command.split(), "4"])
    assert result.exit_code == 2
    assert "'4' has no unit; write 4GB (10^9 bytes each) or 4GiB (2^30 bytes)." in result.stderr
    assert "'4Gi' is not a size such as 500MB" in CliRunner().invoke(cli, [*command.split(), "4Gi"]).stderr
