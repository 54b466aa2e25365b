from __future__ import annotations

import datetime
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import store, vocabulary
from transforms.vocabulary import VocabularySpec

FIRST = datetime.date(2026, 1, 5)
DAYS = [FIRST + datetime.timedelta(days=i) for i in range(-1, 5)]
END = DAYS[4]


def item_days(rows):
    """Rows of (track, event day, known day, plays)."""
    return pl.DataFrame(
        [
            {"track_id": t, "event_day": e, "known_day": k, "plays": n, "streams": 0,
             "timed_plays": 0, "impressions": 9, "likes": 0}
            for t, e, k, n in rows
        ],
        schema=store.ITEM_DAY_SCHEMA,
    )  # fmt: skip


def slow_fit(rows, spec):
    plays = Counter()
    for track, event, known, count in rows:
        if FIRST <= event < END and known < END:
            plays[track] += count
    kept = sorted((-n, t) for t, n in plays.items() if n >= spec.min_plays)
    kept = kept if spec.max_items is None else kept[: spec.max_items]
    return [(t, 4 + i, -n) for i, (n, t) in enumerate(kept)]


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcdefg"), st.sampled_from(DAYS), st.sampled_from(DAYS),
        st.integers(0, 3),
    )
)  # fmt: skip


@given(ROWS, st.integers(1, 4), st.none() | st.integers(1, 4))
def test_fit_equals_counting_by_hand(rows, min_plays, max_items):
    spec = VocabularySpec(min_plays=min_plays, max_items=max_items)
    fitted = vocabulary.fit(item_days(rows), FIRST, END, spec)
    assert dict(fitted.schema) == vocabulary.SCHEMA
    assert fitted.rows() == slow_fit(rows, spec)


def test_the_most_played_come_first_and_ties_by_id():
    rows = [("b", FIRST, FIRST, 2), ("a", FIRST, FIRST, 2), ("c", FIRST, FIRST, 5)]
    fitted = vocabulary.fit(item_days(rows), FIRST, END, VocabularySpec())
    assert fitted["track_id"].to_list() == ["c", "a", "b"]
    assert fitted["item_index"].to_list() == [4, 5, 6]


@pytest.mark.parametrize(("event", "known"), [(END, END), (END, FIRST), (FIRST, END)])
def test_nothing_of_a_later_split_is_in_it(event, known):
    rows = [("a", FIRST, FIRST, 1), ("canary", event, known, 99)]
    fitted = vocabulary.fit(item_days(rows), FIRST, END, VocabularySpec())
    assert fitted["track_id"].to_list() == ["a"]


def test_look_up():
    rows = [("b", FIRST, FIRST, 1), ("a", FIRST, FIRST, 1)]
    fitted = vocabulary.fit(item_days(rows), FIRST, END, VocabularySpec())
    found = vocabulary.look_up(pl.Series(["b", "z", "a", "b"]), fitted)
    assert found.to_list() == [5, vocabulary.UNKNOWN, 4, 5]
    assert vocabulary.look_up(pl.Series([], dtype=pl.String), fitted).to_list() == []
