"""Item pools: which items exist on a day, how often they were played, and exact probabilities."""

import datetime
import decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracle, strategies
from transforms import events, store, vocabulary
from transforms.features.item import snapshots
from transforms.item_pools import DayPool, ItemPools, Proposal, item_pools
from transforms.listening import merge_partitions
from transforms.store import ITEM_DAY_SCHEMA

DAY0 = datetime.date(2026, 1, 5)
ONE = datetime.timedelta(days=1)
ALL = 1 << 64


def day(number):
    return DAY0 + number * ONE


def midnight(number):
    return datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC) + number * ONE


def item_days(rows):
    """A table of (track, event day, known day, plays), days as numbers."""
    full = [
        (track, day(event), day(known), plays, 0, 0, 1, 0) for track, event, known, plays in rows
    ]
    return pl.DataFrame(full, schema=ITEM_DAY_SCHEMA, orient="row")


def catalog_of(rows):
    """A table of (track, release)."""
    schema = {"track_id": pl.String(), "release_time": pl.Datetime("us", "UTC")}
    return pl.DataFrame(rows, schema=schema, orient="row")


def expected_pools(rows, catalog, days, last_train, window):
    """{day: {track: plays}} by the definition, one item and day after another."""
    pools = {}
    for d in days:
        pool = {}
        for track in {row[0] for row in rows} | {row[0] for row in catalog or ()}:
            seen = [r for r in rows if r[0] == track and d - window <= r[1] < d and r[2] < d]
            released = [release for name, release in catalog or () if name == track]
            exists = min(released) <= midnight(d) if released else bool(seen)
            if exists:
                pool[track] = sum(r[3] for r in seen if last_train is None or r[1] <= last_train)
        pools[d] = pool
    return pools


def pools_in(table):
    """The same of a table of pools."""
    names = [name for name in table.columns if name != "track_id"]
    return {
        (datetime.date.fromisoformat(name) - DAY0).days: dict(
            table.select("track_id", name).drop_nulls().iter_rows()
        )
        for name in names
    }


days_of_rows = st.integers(-6, 4)
logs = st.lists(
    st.tuples(st.sampled_from("abcd"), days_of_rows, days_of_rows, st.integers(0, 9)), max_size=12
)
releases = st.tuples(
    st.sampled_from("abcdef"),
    st.integers(-7, 5),
    st.sampled_from([-1, 0, 1, 3_600_000_000]),
).map(lambda r: (r[0], midnight(r[1]) + datetime.timedelta(microseconds=r[2])))


@settings(deadline=None)
@given(
    logs,
    st.none() | st.lists(releases, max_size=6),
    st.integers(-1, 2),
    st.integers(1, 3),
    st.none() | st.integers(-3, 2),
    st.integers(1, 4),
)
def test_pools_are_as_defined(rows, catalog, first, count, last_train, window):
    last_train_day = None if last_train is None else day(last_train)
    tracks = None if catalog is None else catalog_of(catalog)
    last = first + count - 1

    def made(start, end):
        return item_pools(
            item_days(rows), tracks, day(start), day(end), last_train_day, window
        )  # fmt: skip

    table = made(first, last)
    days = range(first, last + 1)
    assert pools_in(table) == expected_pools(rows, catalog, days, last_train, window)
    assert table["track_id"].to_list() == sorted(set(table["track_id"]))
    assert table.schema == {"track_id": pl.String()} | {str(day(d)): pl.Int64() for d in days}
    for d in days:
        assert pools_in(made(d, d))[d] == pools_in(table)[d]


def test_an_item_exists_from_the_midnight_after_it_was_known():
    table = item_pools(item_days([("a", 0, 1, 3)]), None, day(0), day(4), None, 3)
    assert pools_in(table) == {0: {}, 1: {}, 2: {"a": 3}, 3: {"a": 3}, 4: {}}


def test_an_item_exists_on_a_day_from_its_release_at_that_days_midnight():
    catalog = [
        ("early", midnight(1)),
        ("late", midnight(1) + datetime.timedelta(microseconds=1)),
    ]
    played = item_days([("late", 0, 0, 5)])  # by a wrong clock: before its release
    table = item_pools(played, catalog_of(catalog), day(1), day(2), None, 7)
    assert pools_in(table) == {1: {"early": 0}, 2: {"early": 0, "late": 5}}


def test_plays_of_evaluation_days_do_not_count_but_their_items_exist():
    rows = [("a", 0, 0, 3), ("a", 1, 1, 4), ("b", 1, 1, 9)]
    table = item_pools(item_days(rows), None, day(2), day(2), day(0), 7)
    assert pools_in(table) == {2: {"a": 3, "b": 0}}


def test_a_play_that_arrives_again_counts_once_a_partition():
    """Twice on its day, and once more on the day after: see docs/datasets.md, "Two clocks"."""
    t = strategies.FIRST_US + oracle.DAY_US // 2
    first = strategies.event(1, event_time=t, played_ms=40_000)
    again = {**first, "received_time": t + oracle.DAY_US}
    counts = pl.concat(
        store.item_day_counts(events.drop_duplicates(strategies.to_table(part))[0])
        for part in ([first, {**first, "received_time": t + 1}], [again])
    )
    table = item_pools(counts, None, day(1), day(2), None, 7)
    assert pools_in(table) == {1: {"t1": 1}, 2: {"t1": 2}}
    fitted = vocabulary.fit(counts, day(0), day(2), vocabulary.VocabularySpec())
    assert fitted["plays"].to_list() == [2]
    seen = snapshots(counts, day(1), day(2))
    assert seen["item_plays_7d"].to_list() == seen["item_streams_7d"].to_list() == [1, 2]
    merged, _ = merge_partitions([strategies.to_table(part) for part in ([first], [again])])
    assert merged.height == 1


def test_pools_can_be_mapped_from_a_file(tmp_path):
    table = item_pools(item_days([("a", 0, 0, 3), ("b", 1, 1, 4)]), None, day(1), day(2), None, 7)
    table.write_ipc(tmp_path / "pools.arrow", compression="uncompressed")
    pools = ItemPools(pl.read_ipc(tmp_path / "pools.arrow"))
    assert pools.size == 2
    assert pools.find(pl.Series(["b", "", "zz", "a", "aa"])).tolist() == [1, -1, -1, 0, -1]
    assert pools.day(day(1)).counts.tolist() == [3, 0]
    assert pools.day(day(1)).exists.tolist() == [True, False]
    assert pools.day(day(2)) is pools.day(day(2))


def test_without_any_item():
    pools = ItemPools(item_pools(item_days([]), None, day(0), day(0), None, 7))
    assert pools.find(pl.Series(["a"])).tolist() == [-1]
    assert pools.day(day(0)).proposal("uniform").total == 0


def pool_of(counts):
    """A pool of plays by item, None for an item that does not exist."""
    exists = np.array([count is not None for count in counts])
    return DayPool(np.array([count or 0 for count in counts], dtype=np.int64), exists)


def weights(proposal):
    return np.diff(proposal.cumulative).tolist()


def test_uniform_weights():
    proposal = pool_of([0, None, 7]).proposal("uniform")
    assert weights(proposal) == [1, 0, 1]
    assert proposal.weight(np.array([2, 1, 3, 0, 99])).tolist() == [1, 0, 0, 1, 0]


@pytest.mark.parametrize("alpha", ["0.5", "0.75", "1", "0.7", "0.123456", "0.999"])
def test_popularity_weights_are_the_rounded_powers(alpha):
    counts = [*range(300), 12_345, 10**9, 10**12]
    made = weights(pool_of([None, *counts]).proposal("popularity", float(alpha)))
    assert made[:2] == [0, 0]
    # Half a unit by rounding; other alphas than these have 30 binary digits.
    error = decimal.Decimal("1e-15" if alpha in ("0.5", "0.75", "1") else "3e-8")
    with decimal.localcontext(prec=40):
        for count, weight in zip(counts[1:], made[2:], strict=True):
            exact = decimal.Decimal(count) ** decimal.Decimal(alpha) * 65536
            assert abs(weight - exact) <= decimal.Decimal("0.5001") + exact * error


@settings(deadline=None)
@given(
    st.lists(st.none() | st.integers(0, 10**9), min_size=1, max_size=8),
    st.floats(1e-3, 0.999),
)
def test_mixed_weights_are_those_of_the_mixture(counts, share):
    proposal = pool_of(counts).proposal("mixed", share)
    there = [count for count in counts if count is not None]
    plays = sum(there)
    for count, weight in zip(counts, weights(proposal), strict=True):
        if count is None:
            assert weight == 0
            continue
        exact = Fraction(1, len(there))
        if plays:
            exact = Fraction(share) * count / plays + (1 - Fraction(share)) / len(there)
        assert abs(Fraction(weight, proposal.total) / exact - 1) < Fraction(1, 10**5)
    assert proposal.total <= 1 << 60


def test_mixed_probability_is_accurate():
    """(B1 freq + B2 / N) / (B1 + B2), with B1 = 3 and B2 = 1."""
    proposal = pool_of([6, 0, 1, 3]).proposal("mixed", 0.75)
    made = [Fraction(weight, proposal.total) for weight in weights(proposal)]
    exact = [(3 * Fraction(count, 10) + Fraction(1, 4)) / 4 for count in (6, 0, 1, 3)]
    assert all(abs(a - b) < Fraction(1, 10**15) for a, b in zip(made, exact, strict=True))


def test_a_day_without_plays():
    pool = pool_of([0, 0, None])
    assert pool.proposal("popularity", 0.75).total == 0
    one, two, none = weights(pool.proposal("mixed", 0.5))
    assert one == two > none == 0
    assert pool.share_of_plays(np.array([0, 2, 7])).tolist() == [0, 0, 0]


def test_share_of_plays():
    assert pool_of([1, None, 3]).share_of_plays(np.array([2, 0, 1, 5])).tolist() == [
        0.75, 0.25, 0, 0
    ]  # fmt: skip


positive = st.integers(1, 9) | st.integers(1, 1 << 50)


@settings(deadline=None)
@given(
    st.lists(st.just(0) | positive, min_size=1, max_size=6).filter(any),
    st.lists(st.integers(0, ALL - 1), min_size=1, max_size=20),
)
def test_bits_fall_to_items_in_proportion(parts, drawn):
    """Against integers of any size: the item whose part of [0, 1) the bits fall into."""
    cumulative = np.concatenate(([0], np.cumsum(parts)))
    total = sum(parts)
    edges = [ALL * int(c) // total + step for c in cumulative for step in (-1, 0, 1)]
    bits = [*(edge % ALL for edge in edges), *drawn]
    items, fair = Proposal(cumulative).items(np.array(bits, dtype=np.uint64))
    for value, item, usable in zip(bits, items.tolist(), fair.tolist(), strict=True):
        assert cumulative[item] <= value * total >> 64 < cumulative[item + 1]
        assert usable == (value * total % ALL >= ALL % total)


@settings(deadline=None)
@given(st.integers(1, 40) | st.integers(1, 1 << 60), st.data())
def test_each_ticket_has_the_same_number_of_usable_bits(total, data):
    ticket = data.draw(st.integers(0, total - 1))
    first, after = -(-ticket * ALL // total), -(-(ticket + 1) * ALL // total)
    # Within a ticket the low half of bits * total grows by the total, so only the first few fall
    # below the threshold.
    skipped = 0
    while (first + skipped) * total % ALL < ALL % total:
        skipped += 1
    assert after - first - skipped == ALL // total
    edge = np.array([first + skipped, after - 1], dtype=np.uint64)
    assert Proposal(np.array([0, total])).items(edge)[1].all()
