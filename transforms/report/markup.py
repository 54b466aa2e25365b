"""HTML and SVG elements as text in which nothing but a tag can open a tag.

`tag("td", name)` escapes `name`; only what `tag` and `join` made themselves is taken as markup. So
a page made of tags cannot run what a track, a column or a message is called.
"""

from __future__ import annotations

import html


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """An element with its children.

    A child that is not Markup is escaped; None leaves a child or an attribute out. Attribute names
    are written with `-` for `_` and without a `_` at the end (`class_`); numbers with two decimals.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: str | None) -> Markup:
    """Children one after the other, escaped as by `tag`."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(child, quote=False)
            for child in children
            if child is not None
        )
    )


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
