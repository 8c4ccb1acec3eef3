"""What a page says: its tables by caption, its headings, its paragraphs and its drawings' numbers."""

import dataclasses
from html.parser import HTMLParser

VOID = ("meta", "br")


@dataclasses.dataclass
class Told:
    """A page, read."""

    tables: dict[str, list[list[str]]] = dataclasses.field(default_factory=dict)
    """Caption -> rows of cells, the head first."""
    headings: list[str] = dataclasses.field(default_factory=list)
    paragraphs: list[str] = dataclasses.field(default_factory=list)
    """And points of lists, and hints of drawings."""
    labels: list[str] = dataclasses.field(default_factory=list)
    """What a screen reader says of each drawing."""
    captions: list[str] = dataclasses.field(default_factory=list)
    """Of figures."""
    numbers: dict[str, str] = dataclasses.field(default_factory=dict)
    """Key numbers by name."""

    @property
    def text(self) -> str:
        """All paragraphs."""
        return "\n".join(self.paragraphs)

    def row(self, caption: str, first: str) -> dict[str, str]:
        """A table's row by its first cell: column -> cell."""
        head, *rows = next(rows for told, rows in self.tables.items() if told.startswith(caption))
        return dict(zip(head, next(row for row in rows if row[0] == first), strict=True))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.told, self.open, self.words, self.table = Told(), [""], "", [[""]]
        self.caption = self.term = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "svg" and dict(attrs).get("role") == "img":
            self.told.labels.append(dict(attrs)["aria-label"] or "")
        if tag == "table":
            self.table, self.caption = [], ""
        elif tag == "tr":
            self.table.append([])
        if tag not in VOID:
            self.open.append(tag)
        if tag != "span":
            self.words = ""

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "span":
            return
        words = self.words.strip()
        if tag in ("h1", "h2", "h3"):
            self.told.headings.append(words)
        elif tag in ("p", "li", "title"):
            self.told.paragraphs.append(words)
        elif tag in ("th", "td"):
            self.table[-1].append(words)
        elif tag == "caption":
            self.caption = words
        elif tag == "figcaption":
            self.told.captions.append(words)
        elif tag == "dt":
            self.term = words
        elif tag == "dd":
            self.told.numbers.setdefault(self.term, words)
        elif tag == "table":
            self.told.tables[self.caption] = self.table
        self.words = ""


def read(html: str) -> Told:
    """The page's parts; every tag must be closed."""
    reader = _Reader()
    reader.feed(html)
    assert reader.open == [""]
    return reader.told
