"""Tables of numbers, with bars and shades in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.report.markup import Markup, join, tag


def note(*text: str | Markup) -> Markup:
    """A remark in smaller print."""
    return tag("p", *text, class_="note")


def table(
    about: str, head: Sequence[str], *bodies: Markup, kind: str | None = None, texts: int = 1
) -> Markup:
    """A table under a remark of what it is about, in a frame that scrolls sideways.

    The first `texts` columns are read from the left, the others are numbers.
    """
    cells = (
        tag("th", text, scope="col", class_="number" if index >= texts else None)
        for index, text in enumerate(head)
    )
    shown = tag("table", tag("thead", tag("tr", *cells)), *bodies, class_=kind, aria_label=about)
    frame = tag("div", shown, class_="scroll", role="region", tabindex="0", aria_label=about)
    return join(note(about), frame)


def body(rows: Iterable[Markup]) -> Markup:
    """Rows of a table."""
    return tag("tbody", *rows)


def row(name: str | Markup, *cells: str | Markup, kind: str | None = None) -> Markup:
    """A row under its name; a text is a number to align, markup a cell (`td`) that is made."""
    made = (c if isinstance(c, Markup) else tag("td", c, class_="number") for c in cells)
    return tag("tr", tag("th", name, scope="row"), *made, class_=kind)


def bar_cell(bar: Markup) -> Markup:
    """A cell with a bar in it."""
    return tag("td", bar, class_="bar-cell")
