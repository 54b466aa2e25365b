"""How much a file may ask for before it is taken for damaged or hostile.

Other modules read these as `limits.NAME` at the time of use, so that one assignment changes a limit
everywhere.
"""

# A table is closed when it holds this much, however few its rows.
TABLE_BYTES = 64 << 20
# Records that exist as Python objects at one time.
BATCH_ROWS = 16_384

# Text.
READ_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 128 << 20
# An empty object of two bytes takes seventy in memory; a record of a log has hundreds of bytes.
FREE_OBJECTS = 1_000_000
MIN_BYTES_PER_OBJECT = 32

# A compressed file may expand 200 times beyond its first 64 MiB, a text to 256 GiB at most.
# Listening logs compress 5 to 30 times.
MAX_TEXT_BYTES = 256 << 30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 << 20

# What a decompressor may keep of what it wrote before: the most that `zstd` accepts unasked, and
# twice what `xz -9` needs.
MAX_WINDOW_BYTES = 128 << 20

# Avro: writers use blocks of 16 KiB to 16 MiB.
MAX_BLOCK_BYTES = 64 << 20
DECODE_BYTES = 8 << 20  # of blocks that are decoded together, unless one alone is larger
MAX_FLAT_ROWS = 1 << 20  # a forged block of tiny records is decoded a few at a time
MAX_SCHEMA_DEPTH = 16
MAX_SCHEMA_FIELDS = 512

# Parquet: a footer that claims more rows than this is forged, or repeats one row. A log's times and
# ids take more than two bits a row however well they are packed.
FREE_ROWS = 1_000_000
MAX_ROWS_PER_BYTE = 4

# A file most of whose rows are no events is given up after so many of them: each takes a line of
# the quarantine, so that a few kilobytes could fill a disk.
MAX_REJECTS = 500_000
