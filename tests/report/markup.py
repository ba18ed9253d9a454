"""Reads the page back with the standard library's parser, strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Every element of this name below, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if child.tag == tag else []
                found += child.all(tag)
        return found

    def text(self) -> str:
        """What a reader sees: no script, no style, white space joined."""
        if self.tag in ("script", "style"):
            return ""
        parts = [c.text() if isinstance(c, Element) else c for c in self.children]
        return " ".join(" ".join(parts).split())

    def by_id(self, wanted: str) -> Element:
        return next(e for e in self.everything() if e.attributes.get("id") == wanted)

    def everything(self) -> list[Element]:
        below = [c for c in self.children if isinstance(c, Element)]
        return [self, *(e for child in below for e in child.everything())]


class StrictParser(HTMLParser):
    """Builds the tree and refuses an end tag that closes another element."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """The tree of a page; every element closed, every id used once."""
    parser = StrictParser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root]
    ids = [e.attributes["id"] for e in parser.root.everything() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    return parser.root


def read_table(table: Element) -> list[list[str]]:
    """Texts of all rows, headings first."""
    rows = [[c for c in row.children if isinstance(c, Element)] for row in table.all("tr")]
    return [[cell.text() for cell in row] for row in rows]


def table_named(root: Element, caption: str) -> list[list[str]]:
    """The table whose caption starts so."""
    for table in root.all("table"):
        if any(c.text().startswith(caption) for c in table.all("caption")):
            return read_table(table)
    raise AssertionError(f"no table is called {caption!r}")
