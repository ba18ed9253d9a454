"""YAML of a study file: safe, strict, and without the surprises of YAML 1.1."""

from __future__ import annotations

import re
from typing import Any

import yaml

from regatta.core.errors import ConfigError

MAX_ALIASES = 64
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""With every alias written out: a few aliases of aliases stand for more than any memory holds."""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and more aliases than a person would write."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._aliases = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise _refused(f"more than {MAX_ALIASES} aliases", self.peek_event())
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH}", self.peek_event())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES} values, with all aliases written out", node)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is written twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else str(key))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise _refused(f"'{str(node.value)[:40]}' is no {kind}", node) from error
        if type(found) is int and found not in _WHOLE:
            raise _refused(f"the number {node.value[:20]}... is beyond 64 bits", node)
        return found


_WHOLE = range(-(2**63), 2**63)
_MERGE = "tag:yaml.org,2002:merge"


def _refused(problem: str, place: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for; ConstructorError where it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    elif not known[id(node)]:
        raise _refused("a value that holds itself", node)
    return known[id(node)]


# YAML 1.1 makes True of the key `on` and 14400 of the time 4:00:00. The words and numbers of YAML
# 1.2 are what people mean.
_NARROWED = (
    *("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"),
    "tag:yaml.org,2002:timestamp",
)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NARROWED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\.inf|\.Inf|\.INF)$|^(\.nan|\.NaN|\.NAN)$|^[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)$"
    ),
    list("-+.0123456789"),
)
_KINDS = ("null", "bool", "int", "float", "seq", "map", "str")
# No other kinds of values: a study is written out as JSON knows them.
_StrictLoader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _KINDS
}
# "1e-5" is a number to every researcher; YAML 1.1 reads it as text because it has no dot.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(text: str, *, where: object) -> Any:
    """Parse YAML without running anything from it; ConfigError with line and column."""
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"the study file is not valid YAML: {problem}", where=place) from error
