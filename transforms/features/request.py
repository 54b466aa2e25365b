"""The moment that asked for a recommendation."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.features.context import FeatureContext
from transforms.features.registry import Columns, Feature, feature
from transforms.timeline import DAY_US, HOUR_US


@feature(
    Feature(
        "hour_of_day", pl.Int64(), "context", "Hour of the day in UTC, 0 to 23.", "h", window_us=0
    ),
    Feature(
        "day_of_week",
        pl.Int64(),
        "context",
        "Day of the week in UTC, Monday 0 to Sunday 6.",
        window_us=0,
    ),
)
def request_time(context: FeatureContext) -> Columns:
    """Of the example's instant, which is known when it is asked for."""
    days = context.row_time_us // DAY_US
    return {
        "hour_of_day": context.row_time_us % DAY_US // HOUR_US,
        "day_of_week": np.mod(days + 3, 7),  # 1970-01-01 was a Thursday
    }
