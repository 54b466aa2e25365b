"""Stand-in until the gates are written (their author overwrites this file)."""

from __future__ import annotations

from transforms.config import StrictModel


class GatesSpec(StrictModel):
    """Empty for now."""
