"""The small language in which every schema of Playhead is written once.

A `Schema` is an ordered tuple of `Field`s. Its Avro, Arrow, BigQuery, TFMD and Polars forms
are derived in `schemas.forms`; the text forms kept under `schemas/generated/` are rewritten by
`python -m schemas.generate` and a test fails when one drifts.
"""

from __future__ import annotations

import dataclasses
import enum


class Kind(enum.Enum):
    """The value types a field can have. Widths and units are part of the type."""

    STRING = "string"
    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT64 = "float64"
    TIMESTAMP_US = "timestamp_us"  # microseconds since 1970-01-01T00:00:00Z, always UTC


@dataclasses.dataclass(frozen=True)
class Field:
    """One column.

    Attributes:
      name: column name; a unit is part of it where the type does not carry one (`played_ms`).
      kind: value type.
      doc: what the value means, in one or two sentences.
      required: a null makes the row invalid (reason `missing_<name>`).
      unit: unit of the number, for generated documentation ("ms", "1").
      symbols: for a STRING field, the closed set of values; empty means free text.
      fallback: the symbol that replaces a value outside `symbols` (counted as a repair);
        None means such a row is invalid (reason `unknown_<name>`).
      post_decision: the value is known only after the item was shown or played, so it must
        never be a feature of that same row.
      aliases: names that older writers used; resolved on read by Avro and JSON adapters.
    """

    name: str
    kind: Kind
    doc: str
    required: bool = False
    unit: str | None = None
    symbols: tuple[str, ...] = ()
    fallback: str | None = None
    post_decision: bool = False
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.symbols and self.kind is not Kind.STRING:
            raise ValueError(f"{self.name}: symbols are for string fields, got {self.kind.value}")
        if self.fallback is not None and self.fallback not in self.symbols:
            raise ValueError(f"{self.name}: fallback {self.fallback!r} is not one of its symbols")


@dataclasses.dataclass(frozen=True)
class Schema:
    """An ordered set of fields with a name and a version.

    Attributes:
      name: record name (CamelCase), used as the Avro record name.
      version: integer, raised on any change; removals and type changes need a new major
        package version (see CONTRIBUTING.md).
      doc: one paragraph.
      fields: the columns, in order.
    """

    name: str
    version: int
    doc: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: duplicate field names in {names}")

    @property
    def names(self) -> list[str]:
        return [field.name for field in self.fields]

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"{self.name} has no field {name!r}")

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)
