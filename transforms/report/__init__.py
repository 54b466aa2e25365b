"""report.html: one page that tells what a version of a dataset is, and whether to trust it.

The page stands alone: style and charts are in it, there is no script, and its own policy forbids
to fetch anything. It is a pure function of a `ReportInput`, so equal data has an equal page. What
the data says (names of tracks, columns, messages) is escaped by `markup` and can only be text.

    view         what a page is drawn from, and what its sections derive from it
    figures      numbers and days as text
    markup       elements, escaped; tables and charts are made of them
    overview     head and foot of the page
    origin, behaviour, columns, experiments     its sections
"""

from __future__ import annotations

import importlib.resources

from transforms.report import behaviour, columns, experiments, origin, overview
from transforms.report.markup import Markup, join, tag
from transforms.report.view import ReportInput, Section

__all__ = ["REPORT_NAME", "ReportInput", "render"]

REPORT_NAME = "report.html"

# Nothing is fetched, no script runs, no form or base can lead elsewhere.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)

# In the order of the page; each has what it needs or says why it is left out.
_SECTIONS = (
    origin.findings,
    origin.splits,
    origin.funnel,
    behaviour.labels,
    behaviour.listening,
    behaviour.popularity,
    columns.features,
    columns.changes,
    columns.drift,
    experiments.experiments,
)


def render(given: ReportInput) -> str:
    """The page, as HTML text."""
    made = [make(given) for make in _SECTIONS]
    shown = [section for section in made if section.body is not None]
    links = [(section.anchor, section.title) for section in shown] + [("made", "How it was made")]
    contents = tag(
        "nav",
        tag("ol", *(tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title in links)),
        aria_label="Contents",
    )
    main = tag("main", *map(_section, shown), overview.foot(given), _left_out(made), tabindex="-1")
    style = importlib.resources.files(__package__).joinpath("style.css").read_text("utf-8")
    title = f"{given.manifest.name} {given.manifest.version}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"{tag('title', title)}\n<style>\n{style}</style>\n</head>\n"
        f"{tag('body', overview.head(given), contents, main)}\n</html>\n"
    )


def _section(section: Section) -> Markup:
    return tag("section", tag("h2", section.title), section.body, id=section.anchor)


def _left_out(made: list[Section]) -> Markup | None:
    """What the page does not show, and why."""
    absent = [section for section in made if section.body is None]
    if not absent:
        return None
    items = (tag("li", tag("b", section.title), join(": ", section.absent)) for section in absent)
    return tag("section", tag("h2", "Not in this report"), tag("ul", *items), class_="absent")
