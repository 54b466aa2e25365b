"""The Avro, Arrow, BigQuery, TFMD and Polars forms of a `Schema`, each a pure function.

| Kind         | Avro                    | Arrow              | BigQuery  | TFMD          |
|--------------|-------------------------|--------------------|-----------|---------------|
| STRING       | string                  | string             | STRING    | BYTES         |
| BOOL         | boolean                 | bool               | BOOLEAN   | INT (0 or 1)  |
| INT32        | int                     | int32              | INTEGER   | INT           |
| INT64        | long                    | int64              | INTEGER   | INT           |
| FLOAT64      | double                  | float64            | FLOAT     | FLOAT         |
| TIMESTAMP_US | long, timestamp-micros  | timestamp[us, UTC] | TIMESTAMP | INT (micros)  |

A field that is not required is nullable: an Avro union with null (default null), a nullable Arrow
field, BigQuery mode NULLABLE, TFMD presence without a minimum fraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.fields import Field, Kind, Schema

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from tensorflow_metadata.proto.v0 import schema_pb2

AVRO_NAMESPACE = "playhead"

_AVRO: dict[Kind, Any] = {
    Kind.STRING: "string",
    Kind.BOOL: "boolean",
    Kind.INT32: "int",
    Kind.INT64: "long",
    Kind.FLOAT64: "double",
    Kind.TIMESTAMP_US: {"type": "long", "logicalType": "timestamp-micros"},
}
_BIGQUERY = {
    Kind.STRING: "STRING",
    Kind.BOOL: "BOOLEAN",
    Kind.INT32: "INTEGER",
    Kind.INT64: "INTEGER",
    Kind.FLOAT64: "FLOAT",
    Kind.TIMESTAMP_US: "TIMESTAMP",
}


def field_description(field: Field) -> str:
    """The field's documentation with its unit and values, as written into every form."""
    parts = [field.doc]
    if field.unit and field.unit != "1":
        parts.append(f"Unit: {field.unit}.")
    if field.symbols:
        parts.append(f"One of: {', '.join(field.symbols)}.")
    return " ".join(parts)


def avro_schema(schema: Schema) -> dict[str, Any]:
    """The Avro record schema (a JSON-able dict), readable with older and newer writers.

    Optional fields are unions with null first and default null, so that an older writer that lacks
    them still resolves; enumerations are strings, so that a newer writer's symbol is an ordinary
    unknown value (see `Field.fallback`) instead of an unreadable file.
    """
    fields = []
    for field in schema.fields:
        kind = _AVRO[field.kind]
        entry: dict[str, Any] = {"name": field.name, "doc": field_description(field)}
        if field.required:
            entry["type"] = kind
        else:
            entry["type"] = ["null", kind]
            entry["default"] = None
        if field.aliases:
            entry["aliases"] = list(field.aliases)
        fields.append(entry)
    return {
        "type": "record",
        "name": schema.name,
        "namespace": AVRO_NAMESPACE,
        "doc": schema.doc,
        "fields": fields,
    }


def arrow_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema; field metadata carries description and unit."""
    import pyarrow as pa

    types = {
        Kind.STRING: pa.string(),
        Kind.BOOL: pa.bool_(),
        Kind.INT32: pa.int32(),
        Kind.INT64: pa.int64(),
        Kind.FLOAT64: pa.float64(),
        Kind.TIMESTAMP_US: pa.timestamp("us", tz="UTC"),
    }
    return pa.schema(
        [
            pa.field(
                field.name,
                types[field.kind],
                nullable=not field.required,
                metadata={"description": field_description(field)},
            )
            for field in schema.fields
        ],
        metadata={"playhead.schema": f"{schema.name}/{schema.version}"},
    )


def polars_schema(schema: Schema) -> dict[str, pl.DataType]:
    """Column name to Polars type, in schema order."""
    import polars as pl

    types: dict[Kind, pl.DataType] = {
        Kind.STRING: pl.String(),
        Kind.BOOL: pl.Boolean(),
        Kind.INT32: pl.Int32(),
        Kind.INT64: pl.Int64(),
        Kind.FLOAT64: pl.Float64(),
        Kind.TIMESTAMP_US: pl.Datetime("us", "UTC"),
    }
    return {field.name: types[field.kind] for field in schema.fields}


def type_name(kind: pl.DataType) -> str:
    """The Arrow name of a column's type, as manifests and people read it."""
    import polars as pl

    if isinstance(kind, pl.List):
        inner = kind.inner
        return f"list<{type_name(inner() if isinstance(inner, type) else inner)}>"
    names = {
        pl.String(): "string",
        pl.Boolean(): "bool",
        pl.Int32(): "int32",
        pl.Int64(): "int64",
        pl.UInt64(): "uint64",
        pl.Float64(): "double",
        pl.Date(): "date32",
        pl.Datetime("us", "UTC"): "timestamp[us, tz=UTC]",
    }
    return names[kind]


def bigquery_schema(schema: Schema) -> list[dict[str, str]]:
    """The table schema as BigQuery's JSON API and `bq load` read it."""
    return [
        {
            "name": field.name,
            "type": _BIGQUERY[field.kind],
            "mode": "REQUIRED" if field.required else "NULLABLE",
            "description": field_description(field),
        }
        for field in schema.fields
    ]


def tfmd_schema(schema: Schema) -> schema_pb2.Schema:
    """The TensorFlow Metadata schema: one scalar feature a field, enumerations as domains.

    A required field must be present in every example; an enumeration without a fallback admits no
    other value (`min_domain_mass` 1.0), and so does one with a fallback, for rows are repaired
    before they are stored.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    types = {
        Kind.STRING: schema_pb2.BYTES,
        Kind.BOOL: schema_pb2.INT,
        Kind.INT32: schema_pb2.INT,
        Kind.INT64: schema_pb2.INT,
        Kind.FLOAT64: schema_pb2.FLOAT,
        Kind.TIMESTAMP_US: schema_pb2.INT,
    }
    result = schema_pb2.Schema()
    for field in schema.fields:
        feature = result.feature.add()
        feature.name = field.name
        feature.type = types[field.kind]
        feature.annotation.comment.append(field_description(field))
        feature.value_count.min = 1
        feature.value_count.max = 1
        if field.required:
            feature.presence.min_fraction = 1.0
        feature.presence.min_count = 0
        if field.symbols:
            feature.string_domain.name = field.name
            feature.string_domain.value.extend(field.symbols)
            feature.distribution_constraints.min_domain_mass = 1.0
        if field.kind is Kind.BOOL:
            feature.int_domain.min = 0
            feature.int_domain.max = 1
            feature.int_domain.is_categorical = True
    return result
