"""Negatives: against an oracle in plain Python, against the frequencies they claim, and against
the future."""

import bisect
import dataclasses
import datetime
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import polars as pl
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import hashing
from transforms.item_pools import ItemPools
from transforms.negatives import SCHEMA, Encounters, Evidence, NegativesSpec, RowsAsked, draw

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
EPOCH = datetime.date(1970, 1, 1)
DAY0 = datetime.date(2026, 1, 5)
T0 = (DAY0 - EPOCH).days * DAY_US
MASK = (1 << 64) - 1
DRAWN = ("uniform", "popularity", "mixed")
EXCLUDE_US = DAY_US
HORIZON_US = 2 * HOUR_US


# --- An oracle: one row, one slot, one try after the other -------------------------------------


def mix(bits):
    """The finalizer of SplitMix64, as in its paper."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def integer_root(number, degree):
    """floor(number ^ (1 / degree))."""
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low


def oracle_weights(source, pool):
    """{track: weight}; `pool` is {track: plays}."""
    if source.type == "uniform":
        return dict.fromkeys(pool, 1)
    if source.type == "popularity":
        alpha = Fraction(source.alpha)  # of a small denominator in these tests
        # Rounded: one binary digit more, plus one, halved.
        scaled = {
            track: integer_root(plays**alpha.numerator << 17 * alpha.denominator, alpha.denominator)
            for track, plays in pool.items()
        }
        return {track: (value + 1) // 2 for track, value in scaled.items()}
    plays, share = sum(pool.values()), int(Fraction(source.in_batch_share) * 2**60)
    per_play = share // plays if plays else 1
    return {track: n * per_play + (2**60 - share) // len(pool) for track, n in pool.items()}


@dataclasses.dataclass(frozen=True)
class Log:
    """Rows and encounters as tuples, and the pools of days as {track: plays}.

    rows: (user, time, session or None, track, key); positives: (user, time, track); exposed and
    skipped: (session, time, track).
    """

    rows: list
    positives: list
    exposed: list
    skipped: list
    pools: dict


def oracle(log, spec, seed=7, horizon_us=HORIZON_US):
    """Rows of SCHEMA as dicts."""
    return [oracle_row(log, spec, seed, horizon_us, row) for row in log.rows]


def oracle_row(log, spec, seed, horizon_us, row):
    user, t, session, own, key = row
    pool = log.pools[t // DAY_US]
    until = t + horizon_us if spec.later_positives == "exclude" else t
    since = t - spec.exclude_days * DAY_US
    barred = {track for who, s, track in log.positives if who == user and since <= s < until}
    barred.add(own)
    later = {track for who, s, track in log.positives if who == user and t <= s < t + horizon_us}
    negatives, mixture, counted = [], 0.0, 0
    for source in spec.sources:
        stream = hashing.hash_text(key, f"negatives-{source.type}", seed)
        if source.type in DRAWN:
            weights = oracle_weights(source, pool)
            total, rest = sum(weights.values()), sum(
                weight for track, weight in weights.items() if track not in barred
            )  # fmt: skip
            if total:
                mixture += source.count * (float(weights.get(own, 0)) / float(total))
                counted += source.count
            if not rest:
                continue
            tracks = sorted(weights)
            ends = [sum(weights[track] for track in tracks[: i + 1]) for i in range(len(tracks))]
            for slot in range(source.count):
                for attempt in range(64):
                    bits = mix(stream ^ mix(slot * 64 + attempt))
                    track = tracks[bisect.bisect_right(ends, bits * total >> 64)]
                    if track not in barred and bits * total % 2**64 >= 2**64 % total:
                        log_q = math.log(weights[track]) - math.log(rest)
                        exact = Fraction(weights[track], rest)
                        assert math.isclose(math.exp(log_q), exact, rel_tol=1e-12)
                        negatives.append((track, source.type, log_q, 1.0))
                        break
        elif session is not None:
            first = t - DAY_US if source.type == "exposed" else -math.inf
            met = {
                track
                for where, s, track in getattr(log, source.type)
                if where == session and first <= s < t and track not in barred
            }
            by_hash = sorted(
                met,
                key=lambda track, stream=stream, kind=source.type: mix(
                    stream ^ hashing.hash_text(track, f"negatives-{kind}-track", seed)
                ),
            )
            kept = by_hash[: source.count]
            negatives += [
                (track, source.type, -math.log(len(met)), len(met) / len(kept)) for track in kept
            ]
    share = pool.get(own, 0) / max(1, sum(pool.values()))
    probability = mixture / max(1, counted)
    return {
        "neg_track_ids": [track for track, *_ in negatives],
        "neg_types": [kind for _, kind, *_ in negatives],
        "neg_log_q": [log_q for *_, log_q, _ in negatives],
        "neg_weights": [weight for *_, weight in negatives],
        "neg_is_later_positive": [track in later for track, *_ in negatives],
        "positive_log_q": math.log(probability) if probability else None,
        "positive_in_batch_log_q": math.log(share) if share else None,
    }


# --- The same through the implementation -------------------------------------------------------


def integers(values):
    return np.array(values, dtype=np.int64)


def encounters(events):
    return Encounters(
        integers([group for group, _, _ in events]),
        integers([time for _, time, _ in events]),
        pl.Series([track for *_, track in events], dtype=pl.String),
    )


def asked(rows):
    return RowsAsked(
        user=integers([row[0] for row in rows]),
        time_us=integers([row[1] for row in rows]),
        session=integers([-1 if row[2] is None else row[2] for row in rows]),
        track_id=pl.Series([row[3] for row in rows], dtype=pl.String),
        key=pl.Series([row[4] for row in rows], dtype=pl.String),
    )


def item_pools_of(pools):
    """ItemPools of {day: {track: plays}}."""
    tracks = sorted({track for pool in pools.values() for track in pool})
    columns = [pl.Series("track_id", tracks, pl.String)]
    for number, pool in pools.items():
        name = (EPOCH + datetime.timedelta(days=number)).isoformat()
        columns.append(pl.Series(name, [pool.get(track) for track in tracks], pl.Int64))
    return ItemPools(pl.DataFrame(columns))


def evidence(log):
    return Evidence(encounters(log.positives), encounters(log.exposed), encounters(log.skipped))


def drawn(log, spec, seed=7, horizon_us=HORIZON_US):
    pools = item_pools_of(log.pools)
    return draw(asked(log.rows), evidence(log), pools, spec, seed, horizon_us)


def spec_of(*sources, **fields):
    made = [{"type": kind, "count": count, **options} for kind, count, options in sources]
    return NegativesSpec(sources=tuple(made), **{"exclude_days": 1, **fields})


MIXED = ("mixed", 3, {"in_batch_share": 0.25})
SPECS = [
    spec_of(("uniform", 3, {})),
    spec_of(("popularity", 4, {}), ("exposed", 2, {}), later_positives="exclude"),
    spec_of(MIXED, ("popularity", 2, {"alpha": 0.5}), ("uniform", 1, {}), ("skipped", 1, {})),
    spec_of(("exposed", 1, {}), ("skipped", 3, {})),
    spec_of(("popularity", 2, {"alpha": 1}), MIXED, later_positives="exclude", exclude_days=2),
]
TRACKS = ["a", "b", "c", "d", "é", "spotify:track:5"]
UNKNOWN = ["not in a pool", "neither"]
# Distances at which a rule changes its answer, and a microsecond to either side.
EDGES = [0, HORIZON_US, EXCLUDE_US, 2 * EXCLUDE_US, DAY_US, HOUR_US]
STEPS = [sign * edge + near for edge in EDGES for sign in (1, -1) for near in (-1, 0, 1)]


def make_log(pick, rows, events):
    """A log of up to some rows and events on two days; `pick` takes one of a sequence.

    Ties and window ends are the rule: an event stands at one of STEPS from a row.
    """
    anchors = [T0 + 3 * HOUR_US, T0 + 20 * HOUR_US, T0 + DAY_US, T0 + DAY_US + 3 * HOUR_US]
    made = []
    for number in range(pick(rows)):
        user = pick(range(3))
        # Sessions 2 u and 2 u + 1 are those of user u.
        session = pick([2 * user, 2 * user, 2 * user + 1, None])
        time = pick(anchors) + pick([0, 0, 1])
        made.append((user, time, session, pick(TRACKS + UNKNOWN), f"user{user}\x1fevent{number}"))

    def one(by_session):
        user, time, session, track, _ = pick(made)
        if pick([False, True]):
            track = pick(TRACKS + UNKNOWN)
        if pick([False, False, True]):
            user, session = pick(range(3)), pick(range(-1, 6))
        group = session if by_session else user
        return -1 if group is None else group, time + pick(STEPS), track

    def several(by_session):
        return [one(by_session) for _ in range(pick(events) if made else 0)]

    def pool():
        return {
            track: pick([0, 0, 1, 2, 3, 17, 12_345, 10**6])
            for track in TRACKS
            if pick([True, True, True, False])
        }

    pools = {T0 // DAY_US: pool(), T0 // DAY_US + 1: pool()}
    return Log(made, several(False), several(True), several(True), pools)


@st.composite
def logs(draw, rows=(3, 2, 1, 0)):
    """Small ones, by Hypothesis."""
    return make_log(lambda of: draw(st.sampled_from(of)), rows, range(8))


specs = st.sampled_from(SPECS)


@settings(max_examples=60, deadline=None)
@given(logs(), specs)
def test_negatives_are_those_of_the_oracle(log, spec):
    check_with_oracle(log, spec)


@pytest.mark.parametrize("number", range(len(SPECS)))
@pytest.mark.parametrize("seed", range(10))
def test_negatives_of_longer_logs_are_those_of_the_oracle(number, seed):
    """More coincidences in each than Hypothesis would draw in the time."""
    pick = random.Random(100 * number + seed).choice
    check_with_oracle(make_log(pick, [8], [40]), SPECS[number])


def check_with_oracle(log, spec):
    made = drawn(log, spec)
    assert made.table.schema == SCHEMA
    assert made.table.to_dicts() == oracle(log, spec)
    types = Counter(kind for row in made.table["neg_types"].to_list() for kind in row)
    for source in spec.sources:
        filled = made.counts["negatives"][source.type]
        assert filled == types[source.type]
        empty = made.counts["negatives_unfilled"][source.type]
        assert filled + empty == source.count * len(log.rows)


@settings(deadline=None)
@given(logs(), specs)
def test_a_negative_is_allowed(log, spec):
    """Said once more without the oracle: reasons for which a track can be no negative."""
    for row, negatives in zip(log.rows, drawn(log, spec).table.iter_rows(named=True), strict=True):
        user, t, _, own, _ = row
        ids = negatives["neg_track_ids"]
        assert own not in ids
        before = {x for who, s, x in log.positives if who == user and t - EXCLUDE_US <= s < t}
        assert not before & set(ids)
        existing = set(log.pools[t // DAY_US])
        for track, kind, weight in zip(
            ids, negatives["neg_types"], negatives["neg_weights"], strict=True
        ):
            assert kind in ("exposed", "skipped") or (track in existing and weight == 1)
        if spec.later_positives == "exclude":
            assert not any(negatives["neg_is_later_positive"])


@settings(deadline=None)
@given(logs(), specs, st.randoms(use_true_random=False))
def test_a_row_has_its_negatives_in_any_company(log, spec, chance):
    """Whatever other rows, days and users there are, and in whatever order everything comes."""
    whole = dict(zip([row[4] for row in log.rows], drawn(log, spec).table.rows(), strict=True))

    def check(part):
        for row, negatives in zip(part.rows, drawn(part, spec).table.rows(), strict=True):
            assert negatives == whole[row[4]]

    def shuffled(values):
        return chance.sample(values, len(values))

    names = ("rows", "positives", "exposed", "skipped")
    check(dataclasses.replace(log, **{name: shuffled(getattr(log, name)) for name in names}))
    for number, pool in log.pools.items():
        of_day = [row for row in log.rows if row[1] // DAY_US == number]
        check(dataclasses.replace(log, rows=of_day, pools={number: pool}))
    without = dataclasses.replace(
        log,
        rows=[row for row in log.rows if row[0] != 1],
        positives=[event for event in log.positives if event[0] != 1],
        exposed=[event for event in log.exposed if event[0] not in (2, 3)],
    )
    check(without)
    # Codes of users and sessions are names, however large.
    far = 10**10
    renamed = Log(
        rows=[(u * far, t, s and s * far, *rest) for u, t, s, *rest in log.rows],
        positives=[(u * far, *rest) for u, *rest in log.positives],
        exposed=[(s * far, *rest) for s, *rest in log.exposed],
        skipped=[(s * far, *rest) for s, *rest in log.skipped],
        pools=log.pools,
    )
    check(renamed)


future = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([0, 1, HORIZON_US - 1, HORIZON_US, DAY_US]),
        st.sampled_from(TRACKS + UNKNOWN),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(logs(rows=(1,)), specs, future)
def test_the_future_does_not_change_negatives(log, spec, later):
    """Positives from t on change the flag alone, and those from t + horizon on change nothing."""
    t, fixed = log.rows[0][1], [name for name in SCHEMA if name != "neg_is_later_positive"]
    before = drawn(log, spec).table
    late = [(user, t + HORIZON_US + after, track) for user, after, track in later]
    changed = dataclasses.replace(
        log,
        positives=[event for event in log.positives if event[1] < t + HORIZON_US] + late,
        exposed=[event for event in log.exposed if event[1] < t]
        + [(2 * user, t + after, track) for user, after, track in later],
        skipped=[event for event in log.skipped if event[1] < t],
    )
    assert drawn(changed, spec).table.equals(before)
    if spec.later_positives == "keep":
        soon = [(user, t + after, track) for user, after, track in later]
        changed = dataclasses.replace(
            log, positives=[event for event in log.positives if event[1] < t] + soon
        )
        assert drawn(changed, spec).table.select(fixed).equals(before.select(fixed))


# --- Rules, one by one -------------------------------------------------------------------------

NOON = T0 + DAY_US // 2
SMALL = {"own": 5, "p": 1, "q": 2, "r": 3}


def one_row(spec, positives=(), exposed=(), skipped=(), pool=SMALL, rows=None):
    rows = rows or [(0, NOON, 0, "own", "u\x1fe")]
    log = Log(rows, list(positives), list(exposed), list(skipped), {T0 // DAY_US: pool})
    return drawn(log, spec).table.row(0, named=True)


@pytest.mark.parametrize(
    ("when", "excluded"),
    [
        (-EXCLUDE_US - 1, False),
        (-EXCLUDE_US, True),
        (-1, True),
        (0, False),
        (HORIZON_US - 1, False),
    ],
)
def test_positives_before_are_excluded(when, excluded):
    row = one_row(spec_of(("uniform", 60, {})), [(0, NOON + when, "p")])
    assert ("p" in row["neg_track_ids"]) is not excluded
    assert set(row["neg_log_q"]) == {math.log(1) - math.log(2 if excluded else 3)}


@pytest.mark.parametrize(
    ("when", "later"), [(-1, False), (0, True), (HORIZON_US - 1, True), (HORIZON_US, False)]
)
def test_later_positives_are_flagged_or_excluded(when, later):
    positives = [(0, NOON + when, "p")]
    row = one_row(spec_of(("uniform", 60, {})), positives)
    flags = dict(zip(row["neg_track_ids"], row["neg_is_later_positive"], strict=True))
    assert flags.get("p", False) is later
    assert not flags["q"]
    row = one_row(spec_of(("uniform", 60, {}), later_positives="exclude"), positives)
    assert ("p" in row["neg_track_ids"]) is (when == HORIZON_US)


def test_a_track_played_often_is_excluded_once():
    often = [(0, NOON - hours * HOUR_US, "r") for hours in (1, 1, 2, 5, 30)]
    row = one_row(spec_of(("popularity", 40, {"alpha": 1})), often)
    assert set(row["neg_track_ids"]) == {"p", "q"}
    exact = {"p": Fraction(1, 3), "q": Fraction(2, 3)}
    for track, log_q in zip(row["neg_track_ids"], row["neg_log_q"], strict=True):
        assert math.isclose(math.exp(log_q), exact[track])


def test_the_rows_own_track_is_excluded_once_if_it_was_played_before():
    row = one_row(spec_of(("uniform", 9, {})), [(0, NOON - 1, "own"), (0, NOON - 2, "p")])
    assert set(row["neg_track_ids"]) == {"q", "r"}
    assert set(row["neg_log_q"]) == {math.log(1) - math.log(2)}


def test_bits_that_would_favour_a_track_are_not_used():
    """With a total near 2^64 that is the fate of one in twenty."""
    spec = spec_of(("popularity", 200, {"alpha": 1}))
    pool = {"a": 4 * 10**13, "b": 3 * 10**13, "c": 18 * 10**12}
    log = Log([(0, NOON, 0, "b", "k")], [], [], [], {T0 // DAY_US: pool})
    assert drawn(log, spec).table.to_dicts() == oracle(log, spec)


def test_positives_of_others_do_not_matter():
    plain = one_row(spec_of(("uniform", 9, {})))
    assert one_row(spec_of(("uniform", 9, {})), [(1, NOON - 1, "p")]) == plain


def test_slots_stay_empty_if_all_is_excluded():
    positives = [(0, NOON - 1, track) for track in "pqr"]
    log = Log([(0, NOON, 0, "own", "k")], positives, [], [], {T0 // DAY_US: SMALL})
    made = drawn(log, spec_of(("uniform", 5, {}), MIXED))
    assert made.table["neg_track_ids"].to_list() == [[]]
    assert made.counts["negatives_unfilled"] == {"uniform": 5, "mixed": 3}


def test_a_day_without_plays_has_no_popularity():
    made = one_row(spec_of(("popularity", 5, {}), ("uniform", 1, {})), pool=dict.fromkeys(SMALL, 0))
    assert made["neg_types"] == ["uniform"]
    assert made["positive_log_q"] == math.log(1 / 4)
    assert made["positive_in_batch_log_q"] is None


def test_a_positive_that_is_not_in_the_pool():
    row = one_row(spec_of(("uniform", 9, {})), rows=[(0, NOON, 0, "new", "k")])
    assert row["positive_log_q"] is None
    assert set(row["neg_log_q"]) == {math.log(1) - math.log(4)}


def test_positive_log_q_is_the_mixture_by_counts():
    row = one_row(spec_of(("popularity", 3, {"alpha": 1}), ("uniform", 1, {})))
    mixture = (3 * Fraction(5, 11) + Fraction(1, 4)) / 4
    assert math.isclose(math.exp(row["positive_log_q"]), mixture)
    assert math.isclose(math.exp(row["positive_in_batch_log_q"]), Fraction(5, 11))


@pytest.mark.parametrize(
    ("session", "when", "candidate"),
    [
        (0, -1, True),
        (0, 0, False),
        (0, -DAY_US, True),
        (0, -DAY_US - 1, False),
        (1, -1, False),
        (-1, -1, False),
    ],
)
def test_exposed_tracks_are_of_the_session_before(session, when, candidate):
    row = one_row(spec_of(("exposed", 3, {})), exposed=[(session, NOON + when, "x")] * 2)
    assert row["neg_track_ids"] == ["x"] * candidate
    assert row["neg_log_q"] == [0.0] * candidate
    assert row["neg_weights"] == [1.0] * candidate


def test_a_row_without_a_session_has_no_exposed_tracks():
    rows = [(0, NOON, None, "own", "k")]
    row = one_row(spec_of(("exposed", 3, {})), exposed=[(-1, NOON - 1, "x")], rows=rows)
    assert row["neg_track_ids"] == []


def test_skipped_tracks_are_those_of_the_whole_session():
    skipped = [(0, NOON - 2 * DAY_US, "x"), (0, NOON - 1, "y"), (0, NOON, "z"), (1, NOON - 1, "q")]
    row = one_row(spec_of(("skipped", 5, {})), skipped=skipped)
    assert set(row["neg_track_ids"]) == {"x", "y"}


def test_kept_tracks_stand_for_all():
    shown = [(0, NOON - 1 - number, f"x{number % 8}") for number in range(20)]
    shown += [(0, NOON - 1, "own"), (0, NOON - 1, "p")]
    row = one_row(spec_of(("exposed", 3, {})), [(0, NOON - HOUR_US, "p")], shown)
    assert len(set(row["neg_track_ids"])) == 3
    assert row["neg_log_q"] == [-math.log(8)] * 3
    assert row["neg_weights"] == [8 / 3] * 3


def test_a_session_with_many_more_meetings_than_a_chunk():
    """Chunks of rows do not show."""
    shown = [(0, NOON - 1 - number, f"x{number % 700}") for number in range(9000)]
    rows = [(0, NOON - 500 * number, 0, "own", f"k{number}") for number in range(12)]
    log = Log(rows, [], shown, [], {T0 // DAY_US: SMALL})
    spec = spec_of(("exposed", 2, {}))
    assert drawn(log, spec).table.to_dicts() == oracle(log, spec)


def test_no_rows():
    made = drawn(Log([], [], [], [], {}), SPECS[2])
    assert made.table.schema == SCHEMA
    assert made.table.height == 0


# --- Frequencies -------------------------------------------------------------------------------


def is_far_off(observed, expected):
    """Whether a chi-square test refuses with p < 1e-4 (Wilson and Hilferty's approximation)."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    assert expected.min() >= 5
    statistic, free = ((observed - expected) ** 2 / expected).sum(), len(expected) - 1
    normal = ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    return normal > 3.719


def test_the_chi_square_test_can_refuse():
    """Two of 50 items are a fifth off in 200 000 draws."""
    expected = np.full(50, 4000.0)
    assert not is_far_off(expected + np.tile([60, -60], 25), expected)
    assert is_far_off(np.concatenate(([4800, 3200], expected[2:])), expected)


POPULAR = {f"t{number:02}": 5000 // (number + 1) for number in range(60)}


def many(rows, spec, positives=(), exposed=(), track="t03", pool=None, seed=7):
    """Rows of one user at one instant, with one positive: all with the same probabilities."""
    asked_rows = [(0, NOON, 0, track, f"user\x1fevent{number}") for number in range(rows)]
    pools = {T0 // DAY_US: POPULAR if pool is None else pool}
    log = Log(asked_rows, list(positives), list(exposed), [], pools)
    return drawn(log, spec, seed).table


@pytest.mark.parametrize(
    "source",
    [
        ("uniform", 10, {}),
        ("popularity", 10, {"alpha": 0.5}),
        ("popularity", 10, {"alpha": 0.75}),
        ("popularity", 10, {"alpha": 1}),
        ("mixed", 10, {"in_batch_share": 0.5}),
        ("mixed", 10, {"in_batch_share": 0.9}),
    ],
)
def test_draws_are_as_frequent_as_log_q_says(source):
    """With a fifth of the weight excluded, among it the most popular track."""
    positives = [(0, NOON - HOUR_US, f"t{number:02}") for number in (0, 7, 7, 59)]
    table = many(20_000, spec_of(source), positives)
    drawn_tracks = table.select("neg_track_ids", "neg_log_q").explode(pl.all())
    assert drawn_tracks.height == 200_000
    found = drawn_tracks.group_by("neg_track_ids").agg(pl.len(), pl.col("neg_log_q").unique())
    assert (found["neg_log_q"].list.len() == 1).all()
    probability = np.exp(found["neg_log_q"].explode().to_numpy())
    assert len(found) == 60 - 4
    assert math.isclose(probability.sum(), 1, rel_tol=1e-12)
    assert not is_far_off(found["len"].to_numpy(), 200_000 * probability)


def test_kept_tracks_are_any_of_the_candidates():
    shown = [(0, NOON - 1 - number, f"x{number}") for number in range(40)]
    table = many(5_000, spec_of(("exposed", 4, {})), exposed=shown)
    kept = table["neg_track_ids"].explode().value_counts()["count"].to_numpy()
    assert len(kept) == 40
    assert not is_far_off(kept, np.full(40, 20_000 / 40))


def test_no_two_rows_share_a_stream():
    """Ranks are uniform, and so are the differences between rows next to each other, between slots
    of a row, and between sources."""
    items = 100
    pool = {f"{number:03}": 1 for number in range(items)}
    spec = spec_of(("uniform", 2, {}), ("popularity", 2, {}))
    table = many(100_000, spec, track="none", pool=pool)
    rank = table["neg_track_ids"].explode().cast(pl.Int64).to_numpy().reshape(-1, 4)
    for values in (
        *rank.T,
        rank[1:, 0] - rank[:-1, 0],
        rank[1:, 1] - rank[:-1, 0],
        rank[:, 1] - rank[:, 0],
        rank[:, 2] - rank[:, 0],
    ):
        counts = np.bincount(values % items, minlength=items)
        assert not is_far_off(counts, np.full(items, len(values) / items))


def test_another_seed_draws_others():
    spec = spec_of(("uniform", 5, {}), ("exposed", 2, {}))
    shown = [(0, NOON - 1 - number, f"x{number}") for number in range(30)]
    one, two = (many(200, spec, exposed=shown, seed=seed) for seed in (1, 2))
    same = ["neg_types", "positive_log_q", "positive_in_batch_log_q"]
    assert one.select(same).equals(two.select(same))
    assert (one["neg_track_ids"] == two["neg_track_ids"]).sum() == 0


def test_a_rare_new_track_moves_few_draws():
    spec = spec_of(("popularity", 10, {"alpha": 1}))
    before = many(2_000, spec)["neg_track_ids"].explode()
    after = many(2_000, spec, pool={**POPULAR, "t30a": 1})["neg_track_ids"].explode()
    assert (before != after).mean() < 0.01


# --- The spec ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "uniform", "count": 0}, "greater than or equal to 1"),
        ({"type": "popularity", "count": 1, "alpha": 0}, "greater than 0"),
        ({"type": "popularity", "count": 1, "alpha": 1.01}, "less than or equal to 1"),
        ({"type": "popularity", "count": 1, "alpha": float("nan")}, "finite"),
        ({"type": "uniform", "count": 1, "alpha": 0.5}, "alpha: only for type popularity"),
        ({"type": "mixed", "count": 1, "alpha": 0.5}, "alpha: only for type popularity"),
        ({"type": "mixed", "count": 1}, "in_batch_share: expected a number"),
        ({"type": "mixed", "count": 1, "in_batch_share": 1}, "less than 1"),
        ({"type": "exposed", "count": 1, "in_batch_share": 0.5}, "in_batch_share: only for"),
        ({"type": "guessed", "count": 1}, "'uniform'"),
        ({"type": "uniform", "count": 1, "share": 1}, "Extra inputs"),
    ],
)
def test_wrong_sources_are_refused(source, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        NegativesSpec(sources=(source,))


@pytest.mark.parametrize(
    "fields",
    [
        {"sources": ()},
        {"sources": ({"type": "uniform", "count": 1}, {"type": "uniform", "count": 2})},
        {"popularity_days": 91},
        {"exclude_days": 0},
        {"exclude_days": 29},
        {"later_positives": "flag"},
    ],
)
def test_wrong_specs_are_refused(fields):
    with pytest.raises(pydantic.ValidationError):
        NegativesSpec(**{"sources": ({"type": "uniform", "count": 1},), **fields})


def test_defaults_are_written_out():
    spec = NegativesSpec(sources=({"type": "popularity", "count": 4},))
    dump = spec.model_dump()
    assert dump["sources"][0]["alpha"] == 0.75
    assert (dump["popularity_days"], dump["exclude_days"], dump["later_positives"]) == (
        28, 7, "keep"
    )  # fmt: skip
    assert NegativesSpec.model_validate(dump) == spec
