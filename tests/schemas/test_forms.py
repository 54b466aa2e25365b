"""Every form of a schema says the same thing, and the tools that read it accept it."""

import datetime
import io

import fastavro
import polars as pl
import pyarrow as pa
import pytest

from schemas import CATALOG, LISTENING_EVENT, Field, Kind, Schema, forms

SCHEMAS = pytest.mark.parametrize("schema", [LISTENING_EVENT, CATALOG], ids=lambda s: s.name)

VALUES = {
    Kind.STRING: "naïve 曲",
    Kind.BOOL: True,
    Kind.INT32: -(2**31),
    Kind.INT64: 2**63 - 1,
    Kind.FLOAT64: 0.1,
    Kind.TIMESTAMP_US: datetime.datetime(2026, 1, 5, 23, 59, 59, 999999, datetime.UTC),
}

# A schema of every kind, once required and once not.
EVERY_KIND = Schema(
    name="EveryKind",
    version=1,
    doc="All kinds.",
    fields=tuple(
        Field(f"{kind.value}_{'required' if required else 'optional'}", kind, "Doc.", required)
        for kind in Kind
        for required in (True, False)
    ),
)


def full_row(schema):
    return {field.name: VALUES[field.kind] for field in schema.fields}


def sparse_row(schema):
    """The least a valid row can hold: nulls wherever they are allowed."""
    return {field.name: VALUES[field.kind] if field.required else None for field in schema.fields}


def avro_bytes(schema, rows):
    buffer = io.BytesIO()
    fastavro.writer(buffer, fastavro.parse_schema(schema), rows)
    return buffer.getvalue()


def read_avro(data, reader_schema):
    return list(
        fastavro.reader(io.BytesIO(data), reader_schema=fastavro.parse_schema(reader_schema))
    )


@pytest.mark.parametrize("schema", [LISTENING_EVENT, CATALOG, EVERY_KIND], ids=lambda s: s.name)
def test_rows_survive_arrow_to_avro_to_arrow(schema):
    rows = [full_row(schema), sparse_row(schema)]
    table = pa.Table.from_pylist(rows, schema=forms.arrow_schema(schema))
    avro = forms.avro_schema(schema)
    read = read_avro(avro_bytes(avro, table.to_pylist()), avro)
    assert pa.Table.from_pylist(read, schema=forms.arrow_schema(schema)).equals(table)
    assert read == rows


@SCHEMAS
def test_avro_refuses_a_null_in_a_required_field(schema):
    row = full_row(schema)
    row[next(field.name for field in schema.fields if field.required)] = None
    with pytest.raises(TypeError):
        avro_bytes(forms.avro_schema(schema), [row])


def test_a_file_of_an_older_writer_reads_with_nulls_for_newer_fields():
    older = Schema(
        "ListeningEvent", 0, "Before most fields.", LISTENING_EVENT.fields[:3]
        + tuple(field for field in LISTENING_EVENT.fields[3:] if field.required),
    )  # fmt: skip
    data = avro_bytes(forms.avro_schema(older), [full_row(older)])
    (row,) = read_avro(data, forms.avro_schema(LISTENING_EVENT))
    assert row == sparse_row(LISTENING_EVENT)


def test_a_file_of_a_newer_writer_reads_without_its_new_fields_and_keeps_unknown_symbols():
    newer = Schema(
        "ListeningEvent", 99, "Later.",
        (*LISTENING_EVENT.fields, Field("mood", Kind.STRING, "New.", required=True)),
    )  # fmt: skip
    written = full_row(newer) | {"reason_start": "thought", "event_type": "hum"}
    (row,) = read_avro(
        avro_bytes(forms.avro_schema(newer), [written]), forms.avro_schema(LISTENING_EVENT)
    )
    assert "mood" not in row
    assert (row["reason_start"], row["event_type"]) == ("thought", "hum")


def test_an_alias_resolves_a_name_of_an_older_writer():
    old = Schema("T", 1, "Old.", (Field("ms_played", Kind.INT64, "Played.", True),))
    new = Schema(
        "T", 2, "New.", (Field("played_ms", Kind.INT64, "Played.", True, aliases=("ms_played",)),)
    )
    data = avro_bytes(forms.avro_schema(old), [{"ms_played": 7}])
    assert read_avro(data, forms.avro_schema(new)) == [{"played_ms": 7}]


@pytest.mark.parametrize("schema", [LISTENING_EVENT, CATALOG, EVERY_KIND], ids=lambda s: s.name)
def test_arrow_and_polars_types_are_the_same(schema):
    arrow = forms.arrow_schema(schema)
    assert dict(pl.from_arrow(arrow.empty_table()).schema) == forms.polars_schema(schema)
    # and back; Polars has no second string type and no non-null columns
    empty = pl.DataFrame(schema=forms.polars_schema(schema)).to_arrow()
    nullable = pa.schema([field.with_nullable(True) for field in arrow])
    assert empty.cast(nullable).schema.equals(nullable)


@SCHEMAS
def test_arrow_fields_carry_their_descriptions_and_the_schema_version(schema):
    arrow = forms.arrow_schema(schema)
    assert arrow.metadata[b"playhead.schema"].decode() == f"{schema.name}/{schema.version}"
    for field in schema.fields:
        text = arrow.field(field.name).metadata[b"description"].decode()
        assert text.startswith(field.doc)


@SCHEMAS
def test_bigquery_reads_its_schema(schema):
    from google.cloud import bigquery

    for entry, field in zip(forms.bigquery_schema(schema), schema.fields, strict=True):
        read = bigquery.SchemaField.from_api_repr(entry)
        assert read.name == field.name
        assert read.mode == ("REQUIRED" if field.required else "NULLABLE")
        assert read.to_api_repr() == entry


def test_bigquery_client_has_a_type_for_every_kind():
    from google.cloud import bigquery

    for entry in forms.bigquery_schema(EVERY_KIND):
        # The legacy names (INTEGER, FLOAT, BOOLEAN) are what the API itself answers with.
        assert entry["type"] in bigquery.enums.SqlTypeNames.__members__


@SCHEMAS
def test_tfmd_requires_what_the_schema_requires(schema):
    features = {feature.name: feature for feature in forms.tfmd_schema(schema).feature}
    assert list(features) == schema.names
    for field in schema.fields:
        feature = features[field.name]
        assert feature.presence.min_fraction == (1.0 if field.required else 0.0)
        assert list(feature.string_domain.value) == list(field.symbols)
        assert feature.value_count.max == 1


def test_descriptions_name_unit_and_values():
    field = Field("a_ms", Kind.INT64, "A.", unit="ms")
    assert forms.field_description(field) == "A. Unit: ms."
    field = Field("b", Kind.STRING, "B.", symbols=("x", "y"))
    assert forms.field_description(field) == "B. One of: x, y."


def test_a_schema_refuses_what_could_not_be_generated():
    with pytest.raises(ValueError, match="duplicate field names"):
        Schema("T", 1, "", (Field("a", Kind.BOOL, ""), Field("a", Kind.BOOL, "")))
    with pytest.raises(ValueError, match="symbols are for string fields, got int64"):
        Field("a", Kind.INT64, "", symbols=("x",))
    with pytest.raises(ValueError, match="fallback 'z' is not one of its symbols"):
        Field("a", Kind.STRING, "", symbols=("x",), fallback="z")


@SCHEMAS
def test_units_stand_in_the_names_of_fields(schema):
    for field in schema.fields:
        if field.unit not in (None, "1"):
            assert field.name.endswith(f"_{field.unit}")
        if field.kind is Kind.TIMESTAMP_US:
            assert field.name.endswith("_time")
