"""Options of a study against the function that takes them: names, types, and what must be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from regatta.core.errors import ConfigError, UnknownNameError
from regatta.core.registry import nearest


def typed_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    where: str,
    owner: str = "",
    reserved: Collection[str] = (),
    strict: bool = True,
) -> dict[str, Any]:
    """`options` in the types of the arguments of `function`.

    Args:
        where: the section that they stand in, for messages: "protocol.options".
        owner: whose options they are, for messages: "model vivit".
        reserved: arguments that other keys of the study fill; they are no options.
        strict: False also takes what can be read as the type, such as "3" for 3.
    Raises:
        UnknownNameError: an option that the function does not have, with the nearest one.
        ConfigError: a wrong type, with its place, or an option without default that is not given.
    """
    parameters = inspect.signature(function).parameters
    types = get_type_hints(function, include_extras=True)
    known = [name for name in parameters if name not in reserved]
    of_owner = f" of {owner}" if owner else ""
    typed: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise _unknown_option(str(name), known, of_owner=of_owner, where=where)
        try:
            typed[name] = TypeAdapter(types[name]).validate_python(value, strict=strict)
        except ValidationError as error:
            raise _wrong_type(name, value, error, of_owner=of_owner, where=where) from error
    required = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in typed]
    if missing:
        raise ConfigError(f"option(s){of_owner} not given: {', '.join(missing)}", where=where)
    return typed


def _unknown_option(name: str, known: list[str], *, of_owner: str, where: str) -> UnknownNameError:
    close = nearest(name, known)
    guess = f"did you mean '{close}'? " if close else ""
    return UnknownNameError(
        f"unknown option '{name}'{of_owner}",
        where=where,
        hint=f"{guess}known: {', '.join(sorted(known)) or 'none'}",
    )


def _wrong_type(
    name: str, value: Any, error: ValidationError, *, of_owner: str, where: str
) -> ConfigError:
    """Pydantic lists one problem per member of a union: all of them say what is allowed."""
    problems = error.errors()
    same_place = all(problem["loc"] == problems[0]["loc"] for problem in problems)
    place = [str(part) for part in problems[0]["loc"]] if same_place else []
    wrong = problems[0]["input"] if same_place else value
    messages = "; or: ".join(dict.fromkeys(problem["msg"] for problem in problems))
    return ConfigError(
        f"option '{name}'{of_owner} cannot be {wrong!r:.60}: {messages}",
        where=".".join([where, name, *place]),
    )
