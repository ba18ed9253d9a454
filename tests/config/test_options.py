"""Options against a signature: what passes, and how a slip of the pen is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from regatta.config.options import typed_options
from regatta.core.errors import ConfigError, UnknownNameError


def build(
    root: str,
    *,
    stride: Sequence[int] = (1, 2),
    share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    pad: Literal["loop", "mask"] = "loop",
    size: int | Literal["auto"] = "auto",
) -> None: ...


def check(options: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return typed_options(build, options, where="x.options", reserved=("root",), **settings)


def test_good_options_come_back_typed_and_defaults_stay_with_the_function():
    assert check({"stride": [4, 8], "share": 1, "size": "auto"}) == {
        "stride": [4, 8],
        "share": 1.0,
        "size": "auto",
    }
    assert check({}) == {}


def test_an_unknown_option_tells_owner_nearest_and_all_names():
    with pytest.raises(UnknownNameError) as caught:
        check({"strides": [1]}, owner="protocol toy")
    assert caught.value.what == "unknown option 'strides' of protocol toy"
    assert caught.value.where == "x.options"
    assert caught.value.hint == "did you mean 'stride'? known: pad, share, size, stride"


def test_what_another_key_fills_is_no_option():
    with pytest.raises(UnknownNameError, match="unknown option 'root'"):
        check({"root": "here"})


def test_a_key_that_is_no_text_is_an_unknown_option():
    with pytest.raises(UnknownNameError, match="unknown option '3'"):
        check({3: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("options", "where", "told"),
    [
        ({"stride": [1, 2.5]}, "x.options.stride.1", "cannot be 2.5"),
        ({"stride": [1, True]}, "x.options.stride.1", "cannot be True"),
        ({"stride": ["4"]}, "x.options.stride.0", "cannot be '4'"),
        ({"stride": 4}, "x.options.stride", "cannot be 4"),
        ({"share": 1.5}, "x.options.share", "less than or equal to 1"),
        ({"pad": "zeros"}, "x.options.pad", "'loop' or 'mask'"),
        ({"size": "big"}, "x.options.size", "cannot be 'big'"),
    ],
)
def test_a_wrong_type_tells_the_place_the_value_and_what_is_allowed(options, where, told):
    with pytest.raises(ConfigError, match=told) as caught:
        check(options)
    assert caught.value.where == where


def test_a_wrong_member_of_a_union_tells_every_way_out():
    with pytest.raises(ConfigError, match=r"valid integer; or: .*'auto'"):
        check({"size": "big"})


def test_a_long_value_is_cut_short_in_the_message():
    with pytest.raises(ConfigError) as caught:
        check({"pad": "x" * 5000})
    assert len(caught.value.what) < 200


def test_text_that_reads_as_a_number_passes_only_where_asked():
    assert check({"share": "0.5"}, strict=False) == {"share": 0.5}
    with pytest.raises(ConfigError, match="valid number"):
        check({"share": "0.5"})


def test_an_option_without_default_must_be_given():
    def needs(*, path: str, count: int = 1) -> None: ...

    assert typed_options(needs, {"path": "a"}, where="o") == {"path": "a"}
    with pytest.raises(ConfigError, match=r"option\(s\) of source toy not given: path"):
        typed_options(needs, {"count": 2}, where="o", owner="source toy")
