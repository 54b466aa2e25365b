"""What a check of a dataset found: one finding a line of a report, of anomalies.json and of a log.

An `error` keeps a version from being published, a `warning` only shows in its reports. A check
that finds nothing returns an empty list.
"""

import dataclasses
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """`gate` is the check, `feature` the column, policy or experiment it is about (None: the whole
    dataset), `value` what was measured and `limit` what the configuration allows."""

    gate: str
    feature: str | None
    severity: Severity
    message: str
    value: float | None = None
    limit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values for JSON, its fields in order."""
        return dataclasses.asdict(self)
