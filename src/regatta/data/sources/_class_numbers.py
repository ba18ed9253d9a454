"""Labels of a list as class names: names as they stand, numbers through a class list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regatta.core.errors import ConfigError, DataError
from regatta.core.json_text import parse_json
from regatta.data.sources._lists import list_lines, read_text, unknown_label
from regatta.data.sources._number_files import whole_number

Label = tuple[str, str]
"""(file:line, label as written)."""

_HINT = "write one class per line, in order or with its number in front, or set options.class_list"
_NUMBERED = re.compile(r"(\d{1,15})[\s,]+(.+)")
_WHAT = "the class list"


def name_labels(
    labels: Sequence[Label], class_list: Path | None, first_class: int | None
) -> tuple[dict[str, str], list[str]]:
    """Label as written -> class name, and a remark that says how numbers were read.

    Numbers count from `first_class` where it is given. Else from 0 where a 0 stands in the lists,
    from 1 where the highest is the number of classes, and else as the class list itself counts.

    Raises:
        DataError: names and numbers are mixed, a label is not in the class list.
        ConfigError: the lists do not tell whether they count from 0 or from 1.
    """
    distinct = dict.fromkeys(label for _, label in labels)
    numeric = {label for label in distinct if whole_number(label) is not None}
    if numeric and len(numeric) < len(distinct):
        odd = next((where, label) for where, label in labels if label not in numeric)
        problem = f"'{odd[1]}' is a class name, but other lines give numbers"
        raise DataError(problem, where=odd[0], hint="use either names or numbers in all lists")
    listed = None if class_list is None else _read_class_list(class_list)
    if not numeric:
        names = set(distinct) if listed is None else set(listed[1])
        for where, label in labels:
            if label not in names:
                raise unknown_label(label, names, where=where, class_list=_WHAT)
        return {label: label for label in distinct}, []
    if listed is None:
        return _plain_numbers(numeric)
    return _through_class_list(labels, numeric, listed, first_class)


def _plain_numbers(numeric: set[str]) -> tuple[dict[str, str], list[str]]:
    """Names from bare numbers, padded with zeros so that they sort as numbers do."""
    values = {label: int(label) for label in numeric}
    width = len(str(max(values.values())))
    note = (
        f"classes are numbers from {min(values.values())} to {max(values.values())}; "
        "no class list names them (data.options.class_list)"
    )
    return {label: f"{value:0{width}d}" for label, value in values.items()}, [note]


def _through_class_list(
    labels: Sequence[Label],
    numeric: set[str],
    listed: tuple[int | None, list[str]],
    first_class: int | None,
) -> tuple[dict[str, str], list[str]]:
    listed_first, names = listed
    values = {label: int(label) for label in numeric}
    lowest, highest = min(values.values()), max(values.values())
    if first_class is not None:
        first = first_class
    elif lowest == 0:
        first = 0
    elif highest == len(names):
        first = 1
    elif listed_first is not None:
        first = listed_first
    else:
        raise ConfigError(
            f"labels from {lowest} to {highest} of {len(names)} classes may count from 0 or from 1",
            where="data.options.first_class",
            hint="set it to 0 or 1, or number the lines of the class list",
        )
    for where, label in labels:
        if not 0 <= values[label] - first < len(names):
            last = first + len(names) - 1
            raise DataError(
                f"label {label} is not in the class list",
                where=where,
                hint=f"it has {len(names)} classes, {first} to {last} when counted from {first}",
            )
    note = f"class numbers count from {first}: {first} is '{names[0]}'"
    return {label: names[value - first] for label, value in values.items()}, [note]


def _read_class_list(path: Path) -> tuple[int | None, list[str]]:
    """(number of the first class where the file gives numbers, names in order)."""
    if path.suffix.lower() == ".json":
        return _from_json(path)
    lines = list(list_lines(path, what=_WHAT, hint=_HINT))
    if lines and re.fullmatch(r"(id|number|index)\s*,\s*(name|label|class)", lines[0][1].lower()):
        lines = lines[1:]
    matches = [_NUMBERED.fullmatch(line) for _, line in lines]
    if all(matches):
        pairs = [(int(match[1]), _unquoted(match[2])) for match in matches if match]
        return _in_order(pairs, path)
    return _in_order([(number, _unquoted(line)) for number, (_, line) in enumerate(lines)], path, 0)


def _from_json(path: Path) -> tuple[int | None, list[str]]:
    """`[name, ...]`, `{name: number}` or `{number: name}`."""
    try:
        content: Any = parse_json(read_text(path, what=_WHAT, hint=_HINT))
        if isinstance(content, list):
            return _in_order([(i, _unquoted(str(name))) for i, name in enumerate(content)], path, 0)
        if all(whole_number(key) is not None for key in content):
            pairs = [(int(key), _unquoted(str(name))) for key, name in content.items()]
        else:
            pairs = [(int(number), _unquoted(str(name))) for name, number in content.items()]
    except (ValueError, TypeError) as error:
        raise DataError(f"{_WHAT} cannot be read: {error}", where=path, hint=_HINT) from error
    return _in_order(pairs, path)


def _in_order(
    pairs: list[tuple[int, str]], path: Path, unnumbered: int | None = None
) -> tuple[int | None, list[str]]:
    pairs = sorted(pairs)
    first = pairs[0][0] if pairs else 0
    names = [name for _, name in pairs]
    if not pairs or [number for number, _ in pairs] != list(range(first, first + len(pairs))):
        problem = f"{_WHAT} is empty" if not pairs else f"{_WHAT} skips or repeats a number"
        raise DataError(problem, where=path, hint=_HINT)
    if "" in names:
        raise DataError(f"{_WHAT} has a class without a name", where=path, hint=_HINT)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{_WHAT} names a class twice: {', '.join(twice)}", where=path)
    return (None if unnumbered is not None else first), names


def _unquoted(text: str) -> str:
    return text.strip().strip('"').strip()
