"""What is fuzzed: good files, a reader of them, and what must hold of all that it accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One target made ready.

    files: name -> good content; one of them is mutated at a time. parse: reads, and asserts what
    must hold of what it accepts. folder: where the files lie; None = parse takes the content.
    """

    files: dict[str, bytes]
    parse: Callable[[str, bytes], object]
    folder: Path | None = None


@dataclass(frozen=True)
class Target:
    """One reader of files that users bring.

    build: makes a case in an empty folder. quick, soak: inputs of the two forms. seconds: of the
    processor, the most that one input may take. mebibytes: by which one process may grow over all
    inputs. names_place: whether its errors say where; some are told by their caller.
    """

    name: str
    build: Callable[[Path], Case]
    tokens: tuple[bytes, ...] = ()
    quick: int = 200
    soak: int = 20_000
    seconds: float = 2.0
    mebibytes: int = 256
    names_place: bool = True


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def on_disk(folder: Path, parse: Callable[[], object], *names: str) -> Case:
    """A case whose parser opens files below `folder`; only `names`, if given, are changed."""
    files = tree(folder)
    chosen = {name: content for name, content in files.items() if not names or name in names}
    return Case(chosen, lambda _name, _content: parse(), folder)
