"""Names to things, found without importing them.

An extension is one decorated function in one new file. The registry learns the names by reading the
decorators in the source text, so listing every model costs no torch import, and asking for one
imports only the file that holds it. Other packages add theirs through entry points of the group
`regatta.<kind>`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from regatta.core.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest in spelling to `name`, or None when nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_name(
    kind: str, name: str, known: Iterable[str], where: object = None
) -> UnknownNameError:
    """The error for a name that no one registered, with the nearest one and the whole list."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f"did you mean '{close}'? " if close else ""
    return UnknownNameError(
        f"there is no {kind} named '{name}'",
        where=where,
        hint=f"{hint}known: {', '.join(names) or 'none'}",
    )


@dataclass(frozen=True)
class Listed:
    """A registered name as its source text shows it, without importing the file."""

    name: str
    module: str
    summary: str
    options: dict[str, str] | None
    """Option -> default as written; None when unknown."""
    generates: bool = False
    """A source that makes its files itself, so its root need not exist."""
    kind: str = "video"
    """What a sample is to it: video, signal or any. A model's is the folder that it stands in."""


@dataclass
class Registry(Generic[T]):
    """Registered things of one kind.

    Args:
        kind: the word for messages, for example "model".
        variable: its name in code; decorators are searched as `<variable>.register("name")`.
        packages: dotted packages whose files are searched.
    """

    kind: str
    variable: str
    packages: tuple[str, ...]
    _loaded: dict[str, T] = field(default_factory=dict)

    def register(
        self,
        name: str,
        *,
        generates: bool = False,  # noqa: ARG002
        kind: str = "video",  # noqa: ARG002
    ) -> Callable[[T], T]:
        """Decorate a function or class to make it known under `name`.

        Args:
            generates, kind: see `Listed`; literals, as they are read from the source text.
        """

        def remember(target: T) -> T:
            known = self._loaded.get(name)
            if known is not None and getattr(known, "__module__", None) != getattr(
                target, "__module__", None
            ):
                raise ConfigError(f"two {self.kind}s are registered as '{name}'")
            self._loaded[name] = target
            return target

        return remember

    @cached_property
    def listed(self) -> dict[str, Listed]:
        """Name -> what its source text says of it; entry points of other packages have no text."""
        found: dict[str, Listed] = {}
        for package in self.packages:
            for module, path in _package_files(package):
                for name, node, facts in _registered(path, self.variable):
                    facts.setdefault("kind", _FOLDER_KINDS.get(package, "video"))
                    found[name] = Listed(name, module, _summary(node), _options(node), **facts)
        for point in entry_points(group=f"regatta.{self.kind}"):
            found[point.name] = Listed(point.name, point.module, "", None)
        return found

    def names(self) -> list[str]:
        """Every known name, sorted; imports nothing."""
        return sorted({*self.listed, *self._loaded})

    def check_options(
        self, name: str, options: Iterable[str], *, reserved: frozenset[str], where: object = None
    ) -> None:
        """Raise `UnknownNameError` for an option that the thing called `name` does not take;
        imports nothing.

        `reserved` names are set by other keys of the study and are no options.
        """
        entry = self.listed.get(name)
        if entry is None or entry.options is None:
            return
        known = [option for option in entry.options if option not in reserved]
        for option in options:
            if option not in known:
                raise unknown_name(f"option of the {self.kind} '{name}'", option, known, where)

    def check(self, name: str, where: object = None) -> None:
        """Raise `UnknownNameError` unless `name` is known; imports nothing."""
        if name not in self._loaded and name not in self.listed:
            raise unknown_name(self.kind, name, self.names(), where)

    def get(self, name: str, where: object = None) -> T:
        """The thing registered under `name`; imports its file on first use."""
        self.check(name, where)
        if name not in self._loaded:
            importlib.import_module(self.listed[name].module)
        return self._loaded[name]


_FOLDER_KINDS = {
    "regatta.models.video": "video",
    "regatta.models.image": "image",
    "regatta.models.sensor": "signal",
    "regatta.models.scene": "scene",
}


def _package_files(package: str) -> list[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    return [
        (f"{package}.{path.stem}", path)
        for folder in folders
        for path in sorted(folder.glob("*.py"))
        if not path.stem.startswith("_")
    ]


def _registered(
    path: Path, variable: str
) -> list[tuple[str, ast.FunctionDef | ast.ClassDef, dict[str, Any]]]:
    text = path.read_text(encoding="utf-8")
    if f"{variable}.register(" not in text:
        return []
    found = []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=owner), attr="register"),
                    args=[ast.Constant(value=str(name)), *_],
                    keywords=keywords,
                ) if owner == variable:
                    facts = {
                        keyword.arg: keyword.value.value
                        for keyword in keywords
                        if keyword.arg and isinstance(keyword.value, ast.Constant)
                    }
                    found.append((name, node, facts))
    return found


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _options(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str] | None:
    """Keyword-only arguments and their defaults as written; None when the function takes any."""
    if isinstance(node, ast.ClassDef) or node.args.kwarg:
        return None
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {argument.arg: ast.unparse(default) if default else "" for argument, default in pairs}


MODELS: Registry[Callable[..., Any]] = Registry(
    "model",
    "MODELS",
    (
        "regatta.models.video",
        "regatta.models.image",
        "regatta.models.sensor",
        "regatta.models.scene",
    ),
)
EXTRACTORS: Registry[Callable[..., Any]] = Registry(
    "extractor", "EXTRACTORS", ("regatta.models.scene",)
)
"""Of features of every frame, for the model `trajectory`; see regatta/models/scene."""
SOURCES: Registry[Callable[..., Any]] = Registry("source", "SOURCES", ("regatta.data.sources",))
ORACLES: Registry[Callable[..., Any]] = Registry("oracle", "ORACLES", ("regatta.data.sources",))
PROTOCOLS: Registry[Callable[..., Any]] = Registry("protocol", "PROTOCOLS", ("regatta.evaluation",))
"""PROTOCOLS is searched in regatta/evaluation/*.py; one file may hold several."""

ALL: dict[str, Registry[Any]] = {
    "models": MODELS,
    "extractors": EXTRACTORS,
    "sources": SOURCES,
    "protocols": PROTOCOLS,
    "oracles": ORACLES,
}
