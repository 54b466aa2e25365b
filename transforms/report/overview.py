"""The head of a report, which says in words what the version is, and its foot: how it was made."""

from __future__ import annotations

import itertools

import yaml

from transforms.manifest import FileEntry, InputVersionEntry
from transforms.report import figures, tables, view
from transforms.report.figures import count, plural
from transforms.report.markup import Markup, join, tag
from transforms.report.view import ReportInput

_ROWS = {
    "ranking": "A row is one track shown to a listener (or one play, where the source logs nothing "
    "shown): what was known just before it, and what came of it.",
    "retrieval": "A row is one play, with what was known just before it and tracks drawn as "
    "negatives.",
    "sequences": "A row is a window of one listener's plays, in order.",
    "sessions": "A row is one listening session, with its tracks in order.",
}


def head(given: ReportInput) -> Markup:
    """Name, version, the summary paragraph and the key figures."""
    manifest = given.manifest
    return tag(
        "header",
        tag("p", _MARK, "Playhead · ", tag("span", f"{given.kind} dataset"), class_="eyebrow"),
        tag("h1", manifest.name),
        tag("p", tag("code", manifest.version), class_="version"),
        _refusal(given),
        tag("p", summary(given), class_="lede"),
        tag("dl", *itertools.starmap(_tile, _key_figures(given)), class_="tiles"),
    )


def _refusal(given: ReportInput) -> Markup | None:
    """Says of a version that a gate refused that there is no such version."""
    if given.manifest.status != "REFUSED":
        return None
    gates = dict.fromkeys(each.gate for each in given.findings if each.severity == "error")
    named = (join(", " if index else " ", tag("code", gate)) for index, gate in enumerate(gates))
    return tag("p", tag("b", "Not published"), ": refused by", *named, ".", class_="refused")


# A playhead.
_MARK = tag(
    "svg",
    tag("path", d="M5 2H19V9L12 15L5 9ZM11 13H13V23H11Z"),
    viewBox="0 0 24 24",
    class_="mark",
    aria_hidden="true",
)


def _tile(name: str, value: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def summary(given: ReportInput) -> str:
    """One paragraph in plain words."""
    rows, config = given.whole.get("rows", 0), given.manifest.config
    days = figures.span(config["start_date"], config["end_date"])
    sentences = [f"{plural(rows, 'row')} of listening, {days} (UTC).", _ROWS[given.kind]]
    played = given.whole.get("labels", {}).get("label_played")
    if given.kind == "ranking" and played:
        known = view.over_days(played)
        share = figures.ratio(known["true"], known["known"])
        sentences.append(f"{figures.percent(share)} of the rows led to a play.")
    withheld = given.manifest.counts.get("immature", 0)
    unit = "play" if given.kind == "sequences" else "more row"
    if withheld:
        sentences.append(
            f"{plural(withheld, unit)} {'is' if withheld == 1 else 'are'} withheld until "
            "what came of them is known."
        )
    errors = sum(each.severity == "error" for each in given.findings)
    warnings = len(given.findings) - errors
    found = [plural(n, what) for n, what in ((errors, "error"), (warnings, "warning")) if n]
    passed = "All checks passed." if rows else "There is no row to check."
    sentences.append(f"The checks found {' and '.join(found)}." if found else passed)
    return " ".join(sentences)


def _key_figures(given: ReportInput) -> list[tuple[str, str]]:
    tallied, manifest = given.whole, given.manifest
    tiles = [("rows", count(tallied.get("rows", 0)))]
    if given.splits:
        largest = max(given.splits, key=lambda split: given.tallies[split]["users"])
        tiles.append((f"listeners in {largest}", count(given.tallies[largest]["users"])))
    if "sessions" in manifest.counts and given.kind != "sessions":
        tiles.append(("sessions", count(manifest.counts["sessions"])))
    tiles.append(("days", count(len(tallied.get("days", {})))))
    asked = view.spec_value(manifest, "features") or ()
    features = sum(name in tallied.get("features", {}) for name in asked)
    if features:
        tiles.append(("features", count(features)))
    tiles.append(("data files", figures.size(sum(entry.bytes for entry in _data_files(given)))))
    return tiles


def _data_files(given: ReportInput) -> list[FileEntry]:
    return [entry for entry in given.manifest.files if entry.format != "other"]


def foot(given: ReportInput) -> Markup:
    """How the version was made: code, spec, inputs, files."""
    manifest, config = given.manifest, given.manifest.config
    facts = [
        ("version", manifest.version),
        ("fingerprint", manifest.fingerprint),
        ("Playhead", manifest.code_version),
        ("rows are told apart by", ", ".join(manifest.key)),
    ]
    facts += [
        (name, f"{figures.instant(config[key])} UTC")
        for name, key in (("as of", "as_of_us"), ("complete up to", "watermark_us"))
        if config.get(key) is not None
    ]
    inputs = [
        f"{entry.name} {entry.version}" if isinstance(entry, InputVersionEntry) else entry.path
        for entry in manifest.inputs
    ]
    return tag(
        "section",
        tag("h2", "How it was made"),
        tag(
            "dl", *(join(tag("dt", k), tag("dd", tag("code", v))) for k, v in facts), class_="facts"
        ),
        _files(given),
        _folded("Spec", yaml.safe_dump(config["spec"], sort_keys=False, allow_unicode=True)),
        _folded(plural(len(inputs), "input"), "\n".join(inputs)),
        id="made",
    )


def _files(given: ReportInput) -> Markup | None:
    groups: dict[tuple[str, str], list[FileEntry]] = {}
    for entry in _data_files(given):
        groups.setdefault((entry.role, entry.format), []).append(entry)
    if not groups:
        return None
    order = {split: index for index, split in enumerate(given.splits)}
    rows = (
        tables.row(
            role,
            tag("td", form),
            count(len(files)),
            count(sum(file.rows for file in files)),
            figures.size(sum(file.bytes for file in files)),
        )
        for (role, form), files in sorted(
            groups.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0])
        )
    )
    head = ("split", "format", "files", "rows", "size")
    return tables.table("Data files.", head, tables.body(rows), texts=2)


def _folded(title: str, text: str) -> Markup:
    return tag("details", tag("summary", title), tag("pre", text))
