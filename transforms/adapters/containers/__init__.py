"""The containers of raw logs, read into `RawTable`s in bounded memory.

Parquet, Avro, JSON lines, a JSON array, and delimited text. What holds for all of them:

* A table has at most `TABLE_ROWS` records (rows and rejects together) and, but for Parquet, is
  closed at about `limits.TABLE_BYTES`; OFFSET is the 0-based number of the record in its file.
* A record that cannot be read is a reject with a reason; the records around it are unharmed.
* A file that cannot be trusted to its end raises `InputFileError`: truncated, damaged, not of the
  stated format, or expanding beyond `limits`. Messages never hold what is in a record.
* A text file of 0 bytes has no records. A 0-byte Parquet, Avro, .gz or .zst file is a truncated
  one, and raises.
* Reject reasons: `line_too_long`, `bad_utf8`, `bad_json`, `bad_<column>`, `column_count`,
  `bad_quotes`.

What cannot be noticed: a .gz, .zst or Avro file cut exactly between two members or blocks, a change
of bytes that a container without a checksum (plain text, Avro's null codec) still decodes.
"""

from transforms.adapters.containers.avro_file import read_avro, read_avro_columns
from transforms.adapters.containers.delimited import read_delimited
from transforms.adapters.containers.json_records import read_json_array, read_json_lines
from transforms.adapters.containers.parquet_file import read_parquet
from transforms.adapters.containers.text import open_text

__all__ = [
    "open_text",
    "read_avro",
    "read_avro_columns",
    "read_delimited",
    "read_json_array",
    "read_json_lines",
    "read_parquet",
]
