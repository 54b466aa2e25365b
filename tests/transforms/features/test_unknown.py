"""Counts of what a source cannot tell are null, not 0; of no plays they are 0."""

import dataclasses

import pytest

from tests import built, oracle, strategies

T = strategies.FIRST_US + 12 * oracle.HOUR_US
MINUTE, DAY = oracle.MINUTE_US, oracle.DAY_US
TIMED, LEVEL = {"played_ms": 31_000}, {"source_skip_level": 2}
SCROBBLE = {}  # Last.fm says that a track was played, and no more


def features(*before, sources=("canonical",), **own):
    """Features of an impression a minute after some plays."""
    plays = [
        strategies.event(number, event_time=T - (len(before) - number) * MINUTE, **fields)
        for number, fields in enumerate(before)
    ]
    row = strategies.event(99, event_time=T, event_type="impression", **own)
    log = strategies.log_of([*plays, row], {"examples": {"rows": "impression"}})
    log = dataclasses.replace(log, within=dataclasses.replace(log.within, like_sources=sources))
    built.check_rows(log)
    return next(row for row in built.build(log)[0] if row["event_id"] == "e099")


@pytest.mark.parametrize(
    ("before", "streams", "skips"),
    [
        ([], 0, 0),
        ([TIMED], 1, 0),
        ([SCROBBLE], None, None),
        ([SCROBBLE, SCROBBLE], None, None),
        ([SCROBBLE, TIMED], 1, 0),
        ([LEVEL], None, 1),
        ([SCROBBLE, LEVEL], None, 1),
    ],
)
def test_streams_and_skips_are_null_where_no_play_can_tell(before, streams, skips):
    row = features(*before)
    assert (row["user_streams_7d"], row["user_skips_7d"]) == (streams, skips)
    assert row["session_skips"] == skips
    assert row["user_plays_7d"] == row["session_plays"] == len(before)


@pytest.mark.parametrize(
    ("before", "own", "sources", "likes"),
    [
        ([], "a", (), None),
        ([], "a", ("b",), None),
        ([], "a", ("a",), 0),
        (["b"], "a", ("b",), 0),
        (["b"], "a", ("c",), None),
    ],
)
def test_likes_are_null_where_no_source_of_the_user_tells_of_them(before, own, sources, likes):
    row = features(*({"source": name} for name in before), source=own, sources=sources)
    assert row["user_likes_7d"] == likes


@pytest.mark.parametrize(
    ("before", "streams"),
    [([], 0), ([TIMED], 1), ([SCROBBLE], None), ([SCROBBLE, TIMED], 1), ([LEVEL], None)],
)
def test_streams_of_a_track_are_null_where_no_play_of_it_can_tell(before, streams):
    yesterday = [{**fields, "user_id": "u2"} for fields in before]
    plays = [
        strategies.event(number, event_time=strategies.FIRST_US - (2 - number) * MINUTE, **fields)
        for number, fields in enumerate(yesterday)
    ]
    row = strategies.event(99, event_time=T, event_type="impression")
    log = strategies.log_of([*plays, row])
    built.check_rows(log)
    (found,) = built.build(log)[0]
    assert found["item_streams_7d"] == streams
    assert found["item_plays_7d"] == len(before)
