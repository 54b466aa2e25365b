"""The arms of experiments: listeners against the shares that were to be, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from transforms.counts import Counts
from transforms.exposure import chi_square_tail
from transforms.report import charts, figures, tables, view
from transforms.report.figures import count, percent, plural
from transforms.report.markup import Markup, join, tag
from transforms.report.view import ReportInput, Section
from transforms.tallies import MICRO

_CHANCE = 0.001  # a deviation less likely than this is not put down to chance


def experiments(given: ReportInput) -> Section:
    """A table for each experiment, and whether the sizes of its arms are as expected."""
    found = given.whole.get("experiments", {})
    if not found:
        return Section("experiments", "Experiments", None, "no row was in an experiment.")
    made = (_experiment(given, name, found[name]) for name in sorted(found))
    return Section("experiments", "Experiments", join(*made))


def _experiment(given: ReportInput, name: str, found: Counts) -> Markup:
    # A listener may be in several splits: the balance is that of the split with most of them.
    none: Counts = {"users": 0, "variants": {}}
    seen = {split: given.tallies[split]["experiments"].get(name, none) for split in given.splits}
    split = max(seen, key=lambda each: seen[each]["users"])
    arms = sorted(found["variants"])
    users = {arm: seen[split]["variants"].get(arm, {}).get("users", 0) for arm in arms}
    stated = view.spec_value(given.manifest, "exposure", "experiments", name)
    expected: Mapping[str, float] = stated or dict.fromkeys(arms, 1 / len(arms))
    total = sum(users.values())

    def row(arm: str) -> Markup:
        share, rows = users[arm] / max(1, total), found["variants"][arm]
        reward = figures.ratio(rows["reward_sum_micro"], rows["reward_known"] * MICRO)
        label = f"{arm}: {percent(share)}, expected {percent(expected.get(arm))}"
        return tables.row(
            arm,
            count(users[arm]),
            tables.bar_cell(charts.bar(share, 0, label, expected.get(arm))),
            percent(share),
            percent(expected.get(arm)),
            count(rows["rows"]),
            figures.number(reward),
        )

    twice = total - seen[split]["users"]
    table = tables.table(
        _balance(users, expected),
        ("variant", f"listeners in {split}", "", "share", "expected", "rows", "mean reward"),
        tables.body(map(row, arms)),
    )
    warning = f"{plural(twice, 'listener')} counted in more than one arm."
    return join(tag("h3", name), table, tables.note(warning) if twice else None)


def _balance(users: Mapping[str, int], expected: Mapping[str, float]) -> str:
    """What Pearson's chi-square test says of the sizes of the arms."""
    total = sum(users.values())
    if len(users) < 2 or not total or set(users) - set(expected):
        return "There are no two arms with expected shares to compare."
    statistic = sum(
        (users[arm] - total * expected[arm]) ** 2 / (total * expected[arm]) for arm in users
    )
    p_value = chi_square_tail(statistic, len(users) - 1)
    verdict = (
        "differ by more than chance; something loses listeners of an arm"
        if p_value < _CHANCE
        else "are within chance of what was expected"
    )
    p_text = "< 0.0001" if p_value < 0.0001 else f"= {figures.number(p_value)}"
    return f"The arms' sizes {verdict} (chi-square {figures.number(statistic)}, p {p_text})."
