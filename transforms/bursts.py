"""Sync bursts: plays that were stamped when a device came online, not when they happened.

A device that was offline may report all its plays at once with one stamp. A published history has
27 plays, 77 minutes of music, stamped within one minute. Order and played time of such plays hold;
gaps, sessions and skips must not be read off their times.

Rule. Long plays are those of at least LONG_US. A run is a chain of long plays of one user that
start at most NEAR_US apart each. Three long plays or more in a run are a burst, and so is every
play, of any length, that starts at most NEAR_US from one of them.

Why nothing else is flagged. Take any three plays in a row of a run: they start within 20 s.
* One device plays one thing at a time, and lets two tracks overlap by a crossfade of at most 12 s.
  Skipping through tracks makes many starts, but the play before a start is over by then, so it is
  shorter than the way between the starts and not long.
* Of three plays, two devices must share two: the earlier would have ended 20 s + 12 s after its
  start at the latest, but it lasted 60 s or more. So two devices at once are never flagged. Stamps
  of whole minutes move a start by up to 60 s; one device is still not flagged, for three of its
  plays take 2 x (60 s - 12 s) > 20 s + 60 s from the first start to the last.
The music of a run is more than six times (LONG_US / NEAR_US) the time between its first and last
start.

A play's flag depends on plays that start within BURST_CONTEXT_US of it and on nothing else, so a
day's build with that context says the same as a build of a range. It is the one thing that a row
may know of what comes after it, by that much.

The argument holds for end stamps as well, if an adapter has those and derives starts from them.
"""

from __future__ import annotations

import numpy as np

from transforms.timeline import BoolArray, IntArray, SortedGroups

NEAR_US = 10_000_000
LONG_US = 60_000_000

# A play within NEAR_US of a long one, which is the end of a chain of three.
BURST_CONTEXT_US = 3 * NEAR_US


def sync_bursts(
    user: IntArray, time_us: IntArray, played_us: IntArray, is_play: BoolArray
) -> BoolArray:
    """Which events are plays of a sync burst; false for what is not a play.

    Args:
      user: user codes from 0, non-decreasing.
      time_us: event_time in UTC microseconds, non-decreasing within a user; the order of ties does
        not matter.
      played_us: microseconds played; 0 where unknown.
      is_play: the event is a play. Duplicates, exact and near, are not among them: three reports of
        one play would be a burst.
    """
    burst = np.zeros(len(user), dtype=bool)
    plays = np.flatnonzero(is_play)
    long = plays[played_us[plays] >= LONG_US]
    core = long[_in_chain_of_three(user[long], time_us[long])]
    if len(core):
        cores = SortedGroups.of(user[core], time_us[core])
        first = cores.count_before(user[plays], time_us[plays] - NEAR_US)
        after = cores.count_before(user[plays], time_us[plays] + NEAR_US + 1)
        burst[plays] = after > first
    return burst


def _in_chain_of_three(user: IntArray, time_us: IntArray) -> BoolArray:
    """Whether each play is one of at least three in a row that start at most NEAR_US apart."""
    follows = (user[1:] == user[:-1]) & (np.diff(time_us) <= NEAR_US)
    three = follows[1:] & follows[:-1]
    chained = np.zeros(len(user), dtype=bool)
    for place in range(3):
        chained[place : place + len(three)] |= three
    return chained
