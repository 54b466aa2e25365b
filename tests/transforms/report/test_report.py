"""The report: complete, escaped, the same for the same data, and nothing for a browser to fetch."""

import dataclasses
import datetime
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import statistics_pb2

from transforms import tallies
from transforms.exposure import chi_square_tail
from transforms.findings import Finding
from transforms.manifest import ColumnEntry, FileEntry, InputVersionEntry, Manifest, RunInfo
from transforms.report import (
    ReportInput,
    charts,
    columns,
    experiments,
    figures,
    markup,
    origin,
    render,
    view,
)

DAY = datetime.timedelta(days=1)
FIRST = datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC)
SHA = "0" * 64
VOID = {"meta", "link"}

COLUMNS = (
    ColumnEntry(name="event_time", type="timestamp[us, tz=UTC]", family="context"),
    ColumnEntry(name="user_id", type="string", family="context", identifier=True),
    ColumnEntry(name="track_id", type="string", family="context", identifier=True),
    ColumnEntry(name="surface", type="string", family="context", description="Where it was."),
    ColumnEntry(name="experiment_id", type="string", family="context"),
    ColumnEntry(name="variant", type="string", family="context"),
    ColumnEntry(name="session_id", type="int64", family="session", identifier=True),
    ColumnEntry(name="item_plays_7d", type="int64", family="item", description="Plays <7 d."),
    ColumnEntry(name="label_status", type="string", family="label"),
    ColumnEntry(name="label_played", type="bool", family="label"),
    ColumnEntry(name="label_play_delay_ms", type="int64", family="label"),
    ColumnEntry(name="label_completion", type="double", family="label"),
    ColumnEntry(name="label_reward", type="double", family="label"),
)


def ranking_rows(number, first_day=0, days=3, surface="home"):
    """Made-up rows; of listener i the rows i, i + 20, ..., all in one arm."""
    draw = np.random.default_rng(number)
    played = draw.random(number) < 0.3
    listener = np.arange(number) % 20
    return pl.DataFrame(
        {
            "event_time": [
                FIRST + DAY * (first_day + int(d)) for d in draw.integers(0, days, number)
            ],
            "user_id": [f"u{i}" for i in listener],
            "track_id": [f"t{i}" for i in draw.integers(0, 9, number)],
            "surface": [surface if x else "radio" for x in draw.random(number) < 0.7],
            "experiment_id": ["e"] * number,
            "variant": ["ab"[i % 2] for i in listener],
            "session_id": listener,
            "item_plays_7d": draw.integers(0, 1000, number),
            "label_status": ["mature"] * number,
            "label_played": played,
            "label_play_delay_ms": [1000 if x else None for x in played],
            "label_completion": draw.random(number) * played,
            "label_reward": draw.random(number) * played,
        }
    )


def manifest_of(columns=COLUMNS, name="songs", spec=None, **counts):
    return Manifest(
        kind="dataset",
        name=name,
        version="2026-01-05_2026-01-08-abc",
        fingerprint="abc",
        code_version="1.2.3",
        status="OK",
        config={
            "spec": {"kind": "ranking", **(spec or {})},
            "start_date": "2026-01-05",
            "end_date": "2026-01-08",
            "as_of_us": None,
            "watermark_us": 1_768_000_000_000_000,
            "splits": {
                "test": [1_767_830_400_000_000, 1_767_916_800_000_000],
                "train": [1_767_571_200_000_000, 1_767_830_400_000_000],
            },
        },
        columns=columns,
        inputs=(InputVersionEntry(name="events/dt=2026-01-05", version="v-1", digest=SHA),),
        files=(
            FileEntry(path="train/a.parquet", role="train", rows=300, bytes=2048, sha256=SHA),
            FileEntry(
                path="schema.pbtxt", role="schema", format="other", rows=0, bytes=1, sha256=SHA
            ),
        ),
        counts=counts,
        run=RunInfo(attempt="attempt-1", started_at="-", finished_at="-", runner="r"),
    )


def statistics_of(**values):
    found = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = found.datasets.add(num_examples=300)
    for name, text in values.items():
        feature = dataset.features.add()
        feature.path.step.append(name)
        feature.string_stats.top_values.add(value=text, frequency=7)
    plays = dataset.features.add()
    plays.path.step.append("item_plays_7d")
    plays.num_stats.max = 999
    bins = plays.num_stats.histograms.add(type=statistics_pb2.Histogram.STANDARD)
    for number in (5, 3, 0, 1):
        bins.buckets.add(sample_count=number)
    return found.SerializeToString()


def whole_report(surface="home", columns=COLUMNS, findings=None, drift=None, **manifest):
    """An input that leaves no section out."""
    tallied = {
        "train": tallies.tally(ranking_rows(300, surface=surface), "ranking", COLUMNS),
        "test": tallies.tally(ranking_rows(80, 3, 1), "ranking", COLUMNS),
    }
    described = manifest_of(
        columns,
        **manifest,
        events=1000,
        late=7,
        duplicate_across_partitions=5,
        near_duplicate=3,
        examples=380,
        immature=11,
        split_dropped={"gap": 2, "label_window": 9},
        sessions=40,
    )
    return ReportInput(
        manifest=described,
        tallies=tallied,
        statistics={"train": statistics_of(surface=surface)},
        previous=(described, {"train": tallied["test"]}),
        findings=findings or [Finding("drift", "item_plays_7d", "warning", "It moved.", 0.3, 0.2)],
        drift=drift or {"item_plays_7d": 0.3, "surface": 0.0},
    )


class Page(html.parser.HTMLParser):
    """Elements of a page, each with its attributes and its text; refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attributes": dict(attrs), "text": "", "parents": list(self._open)}
        assert len(attrs) == len(dict(attrs))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, class_=None):
        return [
            e
            for e in self.elements
            if e["tag"] == tag
            and (class_ is None or class_ in (e["attributes"].get("class") or "").split())
        ]

    def inside(self, parent, tag):
        return [e for e in self.all(tag) if any(p is parent for p in e["parents"])]


@pytest.fixture(scope="module")
def page_text():
    return render(whole_report())


@pytest.fixture(scope="module")
def page(page_text):
    return Page(page_text)


SECTIONS = {
    "findings", "splits", "funnel", "labels", "listening", "popularity", "features", "changes",
    "drift", "experiments", "made",
}  # fmt: skip


def test_a_whole_report_has_all_sections_and_links_to_them(page):
    ids = [e["attributes"]["id"] for e in page.elements if "id" in e["attributes"]]
    assert set(ids) == SECTIONS
    assert len(ids) == len(set(ids))
    (nav,) = page.all("nav")
    links = [e["attributes"]["href"] for e in page.inside(nav, "a")]
    assert links == [f"#{name}" for name in ids]
    assert {e["attributes"]["href"] for e in page.all("a")} <= {f"#{name}" for name in SECTIONS}
    assert "Not in this report" not in page.elements[0]["text"]


def test_what_is_missing_is_left_out_with_a_reason():
    given = ReportInput(manifest_of(), {})
    page = Page(render(given))
    ids = {e["attributes"]["id"] for e in page.elements if "id" in e["attributes"]}
    assert ids == {"findings", "made"}
    (absent,) = page.all("section", "absent")
    reasons = {e["text"].split(":")[0]: e["text"].split(":")[1] for e in page.inside(absent, "li")}
    assert len(reasons) == len(SECTIONS) - 2
    assert reasons["Drift"] == " there is no earlier version."
    assert reasons["Splits and days"] == " the version has no rows."
    assert all(reasons.values())


def test_the_summary_says_what_it_is(page):
    (lede,) = page.all("p", "lede")
    assert lede["text"].startswith("380 rows of listening, 5 to 8 January 2026 (UTC). ")
    assert "11 more rows are withheld" in lede["text"]
    assert lede["text"].endswith("The checks found 1 warning.")
    tiles = {e["text"] for e in page.all("dd")}
    assert {"380", "20", "40", "4", "2.0 KiB"} <= tiles


def test_charts_say_what_they_show(page):
    drawn = [e for e in page.all("svg") if e["attributes"].get("aria-hidden") != "true"]
    assert len(drawn) > 20
    for svg in drawn:
        assert svg["attributes"]["role"] == "img"
        inside = [e for e in page.elements if any(p is svg for p in e["parents"])]
        assert inside[0]["tag"] == "title"
        assert inside[0]["text"]
    for figure in page.all("figure"):
        assert page.inside(figure, "desc")[0]["text"]
        assert page.inside(figure, "figcaption")[0]["text"]


def test_tables_have_scopes_and_frames_that_a_keyboard_can_scroll(page):
    assert all(e["attributes"].get("scope") for e in page.all("th"))
    for table in page.all("table"):
        frame = table["parents"][-1]["attributes"]
        assert frame["role"] == "region"
        assert frame["tabindex"] == "0"
        assert table["attributes"]["aria-label"] == frame["aria-label"] != ""


def test_the_page_has_nothing_to_fetch_and_nothing_to_run(page, page_text):
    assert not {e["tag"] for e in page.elements} & {
        "script", "img", "iframe", "object", "embed", "form", "base", "audio", "video", "source",
    }  # fmt: skip
    for element in page.elements:
        assert not any(name.startswith("on") or name == "src" for name in element["attributes"])
    assert [e["attributes"]["href"] for e in page.all("link")] == ["data:,"]
    assert not re.search(r"https?:|@import|url\(|javascript:", page_text)
    policy = page.all("meta")[1]["attributes"]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none';")


HOSTILE = "</style></title></svg><script>document.title='run'</script><b x='\"&amp;"


def hostile_report():
    named = tuple(
        c.model_copy(update={"description": HOSTILE, "family": HOSTILE if i == 3 else c.family})
        for i, c in enumerate(COLUMNS)
    )
    return whole_report(
        surface=HOSTILE,
        columns=named,
        name=HOSTILE,
        spec={"note": HOSTILE},
        findings=[Finding(HOSTILE, HOSTILE, "error", HOSTILE)],
        drift={HOSTILE: 0.2, "surface": 0.1},
    )


def test_nothing_that_the_data_says_can_be_an_element():
    page, plain = Page(render(hostile_report())), Page(render(whole_report()))
    assert {e["tag"] for e in page.elements} == {e["tag"] for e in plain.elements}
    assert {name for e in page.elements for name in e["attributes"]} == {
        name for e in plain.elements for name in e["attributes"]
    }
    assert page.all("h1")[0]["text"] == HOSTILE
    assert HOSTILE in [e["text"] for e in page.all("p")]
    assert HOSTILE in [e["text"] for e in page.all("th")]
    assert any(HOSTILE in e["text"] for e in page.all("pre"))


def test_equal_data_has_an_equal_page_whatever_the_run():
    given = whole_report()
    other = json.loads(given.manifest.model_dump_json())
    other["run"] = {"attempt": "attempt-2", "started_at": "x", "finished_at": "y", "runner": "z"}
    again = whole_report()
    turned = ReportInput(
        Manifest.model_validate(other),
        dict(reversed(again.tallies.items())),
        again.statistics,
        again.previous,
        again.findings,
        dict(reversed(again.drift.items())),
    )
    assert render(given) == render(turned)


@pytest.mark.parametrize(
    ("kind", "counts", "stages", "read"),
    [
        ("ranking", {"examples": 380}, ["Events"], 1015),
        ("retrieval", {"examples": 380, "after_as_of": 4}, ["Events"], 1019),
        (
            "sequences",
            {"targets": 900, "examples": 380, "too_short": 6, "targets_too_short": 9},
            ["Events", "Windows"],
            1015,
        ),
        ("sessions", {"examples": 380, "too_short": 6}, ["Events", "Sessions"], 1015),
    ],
)
def test_the_funnel_adds_up_to_the_rows(kind, counts, stages, read):
    given = whole_report()
    spec = {**given.manifest.config, "spec": {"kind": kind}}
    changed = {"config": spec, "counts": {**given.manifest.counts, **counts}}
    funnel = origin._stages(
        dataclasses.replace(given, manifest=given.manifest.model_copy(update=changed))
    )
    assert [unit for unit, _ in funnel] == stages
    assert funnel[0][1][0] == origin._Line("Events read", read, "main")
    for _, lines in funnel:
        left = None
        for line in lines:
            if line.kind == "main":
                assert left is None or line.number == left
                left = line.number
            elif line.kind == "loss" and left is not None:
                left -= line.number
    parts = [line.number for line in funnel[-1][1] if line.kind == "part"]
    assert sum(parts) == left == 380


def test_ids_are_counted_and_not_named():
    ids = ColumnEntry(name="user_ids", type="list<string>", family="context", identifier=True)
    found = columns._shapes(statistics_of(user_ids="u1", surface="home"), {ids.name})
    assert "u1" not in found["user_ids"]
    assert "home 7" in found["surface"]


def test_label_rates_are_those_of_the_rows(page):
    rows = pl.concat([ranking_rows(300), ranking_rows(80, 3, 1)])
    (table,) = page.all("table", "heat-table")
    lines = {
        cells[0]["text"]: [e["text"] for e in page.inside(tr, "td")]
        for tr in page.inside(table, "tr")
        for cells in [page.inside(tr, "th")]
    }
    home, radio = (rows.filter(surface=s)["label_played"].mean() for s in ("home", "radio"))
    train, test = rows[:300]["label_played"].mean(), rows[300:]["label_played"].mean()
    expected = [1.0, rows["label_played"].mean(), train, test, home, radio]
    assert lines["played"] == [figures.percent(share) for share in expected]
    assert lines["play_delay_ms"][1] == "1.00 s"
    assert lines["reward"][1] == figures.number(rows["label_reward"].mean())


def test_tooltips_name_the_place_and_every_series(page):
    hits = [e["text"] for e in page.all("rect", "hit")]
    test_rows = ranking_rows(80, 3, 1).height
    assert f"8 January 2026\ntrain: 0\ntest: {test_rows}" in hits


@pytest.mark.parametrize(("users", "fair"), [([500, 500], True), ([500, 700], False)])
def test_arms_that_chance_does_not_explain_are_named(users, fair):
    text = experiments._balance(dict(zip("ab", users, strict=True)), {"a": 0.5, "b": 0.5})
    assert ("within chance" in text) is fair
    statistic = (users[0] - users[1]) ** 2 / sum(users)
    assert (chi_square_tail(statistic, 1) > 0.001) is fair


def test_expected_shares_are_those_of_the_spec():
    spec = {"exposure": {"experiments": {"e": {"a": 0.9, "b": 0.1}}}}
    text = Page(render(whole_report(spec=spec))).elements[0]["text"]
    assert "90.0%" in text
    assert "something loses listeners of an arm" in text


@given(st.sets(st.dates(datetime.date(2025, 12, 1), datetime.date(2027, 3, 1)), min_size=1))
def test_periods_cover_all_days_once(days):
    texts = {day.isoformat() for day in days}
    found = view.periods(texts)
    covered = [day for period in found for day in period.days]
    assert covered == sorted(set(covered))
    assert texts <= set(covered)
    assert (covered[0], covered[-1]) == (min(texts), max(texts))
    assert len(found) <= 60
    assert len({len(period.days) for period in found[:-1]}) <= 1


@given(st.lists(st.floats(-1e12, 1e12).filter(lambda v: v == 0 or abs(v) > 1e-9), min_size=1))
def test_an_axis_holds_all_values_and_zero_and_little_more(values):
    scale = charts._Scale.of(values)
    lowest, highest = min(0.0, *values), max(0.0, *values)
    assert all(-1e-6 <= scale.y(value) <= 100 + 1e-6 for value in (*values, 0.0))
    assert scale.y(lowest) >= scale.y(highest)
    lines = scale.lines(few=False)
    assert 0 in lines
    assert 2 <= len(lines) <= 7
    assert lines[0] > lowest - scale.step * 1.01
    assert lines[-1] < highest + scale.step * 1.01
    assert set(scale.lines(few=True)) <= set(lines)


@given(st.lists(st.integers(1, 1 << 40), min_size=1))
def test_the_bin_of_the_median_holds_the_median(numbers):
    histogram = tallies._doubling(numbers)
    low_median = sorted(numbers)[(len(numbers) - 1) // 2]
    edge = view.median_bin(histogram)
    assert edge <= low_median < 2 * edge
    assert set(map(int, histogram)) <= set(view.edges([histogram]))


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (figures.percent(0.1675), "16.8%"),
        (figures.percent(1.0), "100%"),
        (figures.percent(0.99999), ">99.9%"),
        (figures.percent(0.00001), "<0.1%"),
        (figures.percent(0.0), "0%"),
        (figures.number(0.18134), "0.181"),
        (figures.number(-12.345), "-12.3"),
        (figures.number(18734.2), "18,734"),
        (figures.number(0.00012), "1.2e-04"),
        (figures.number(float("nan")), "–"),
        (figures.distance(0.0001), "<0.001"),
        (figures.size(17_058_821), "16.3 MiB"),
        (figures.plural(1, "row"), "1 row"),
        (figures.plural(2000, "row"), "2,000 rows"),
        (figures.span("2026-01-05", "2026-01-05"), "5 January 2026"),
        (figures.span("2026-01-05", "2026-01-09"), "5 to 9 January 2026"),
        (figures.span("2026-01-05", "2026-02-05"), "5 January to 5 February 2026"),
        (figures.span("2025-01-05", "2026-01-05"), "5 January 2025 to 5 January 2026"),
        (figures.instant(1_767_571_200_000_000), "2026-01-05 00:00"),
        (figures.axis_percent(0.1 + 0.2), "30%"),
    ],
)
def test_figures(made, text):
    assert made == text


@given(st.text(), st.text())
def test_tags_escape_texts_and_attributes(text, value):
    made = markup.tag("p", text, "<b>", title=value)
    assert isinstance(made, markup.Markup)
    escaped = html.escape(text, quote=False)
    assert made == f'<p title="{html.escape(value)}">{escaped}&lt;b&gt;</p>'
    assert markup.join(made, None, made) == made + made


# In a browser


def browse(folder, text):
    """What headless Chromium makes of a page without a network: its document, console lines."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    (folder / "page.html").write_text(text, "utf-8")
    done = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--enable-logging=stderr", "--proxy-server=127.0.0.1:9", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=1000",
            (folder / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_it_without_a_word_on_the_console(tmp_path):
    document, console = browse(tmp_path, render(whole_report()))
    assert console == []
    assert len(Page(document).all("figure")) > 5


def test_a_browser_runs_nothing_of_what_the_data_says(tmp_path):
    document, console = browse(tmp_path, render(hostile_report()))
    assert console == []
    assert "<title>run</title>" not in document


@pytest.mark.parametrize(
    "planted",
    [
        "<img src=https://example.invalid/x.png>",
        "<style>@import 'https://example.invalid/x.css';</style>",
        "<script>document.title='run'</script>",
    ],
)
def test_its_policy_would_stop_what_got_into_it(tmp_path, planted):
    text = render(whole_report()).replace("</body>", f"{planted}</body>")
    document, console = browse(tmp_path, text)
    assert any("Content Security Policy" in line for line in console)
    assert "<title>run</title>" not in document


@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_as_wide_as_the_screen_and_no_wider(tmp_path, width):
    # The page's own policy forbids scripts, so a page around it measures it.
    frame = f"<iframe width={width} height=800 srcdoc='{html.escape(render(whole_report()))}'>"
    measure = (
        "<script>addEventListener('load', () => {"
        "const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = page.clientWidth + ' ' + page.scrollWidth; })</script>"
    )
    document, _ = browse(tmp_path, f"<!doctype html>{measure}{frame}</iframe>")
    shown, needed = re.search(r"<title>(\d+) (\d+)</title>", document).groups()
    assert width - 20 <= int(shown) <= width
    assert int(needed) <= int(shown)
