"""The framing of Avro container files: a header, then blocks of records.

* Every length is checked before it is used, and a block is uncompressed to at most
  `limits.MAX_BLOCK_BYTES`: libraries do neither.
* Codecs: null, deflate, bzip2, xz, snappy (with its checksum), zstandard.
* A file ends at the end of a block.
"""

from __future__ import annotations

import bz2
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NoReturn

import fastavro
import orjson
import pyarrow as pa
import zstandard

from transforms.adapters.containers import limits
from transforms.adapters.containers.tables import COPY_AGAIN
from transforms.errors import InputFileError

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16


def encode(schema: Any, value: Any) -> bytes:
    """One value in Avro's binary form."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def container(schema: Any, count: int, records: bytes) -> bytes:
    """An Avro file of one uncompressed block of `count` encoded records."""
    metadata = encode({"type": "map", "values": "bytes"}, {"avro.schema": orjson.dumps(schema)})
    sync = bytes(_SYNC_BYTES)
    lengths = encode("long", count) + encode("long", len(records))
    return b"".join((_MAGIC, metadata, sync, lengths, records, sync))


# --- codecs: bytes to bytes, OverflowError above MAX_BLOCK_BYTES ----------------------------------


def _bounded(data: bytes) -> bytes:
    if len(data) > limits.MAX_BLOCK_BYTES:
        raise OverflowError
    return data


def _finished(decoder: Any, data: bytes) -> bytes:
    out = _bounded(decoder.decompress(data, limits.MAX_BLOCK_BYTES + 1))
    if not decoder.eof:
        raise ValueError("truncated")
    return out


def _unsnappy(data: bytes) -> bytes:
    size = _varint(data)  # the raw format starts with the size of what it holds
    if size > limits.MAX_BLOCK_BYTES:
        raise OverflowError
    out: bytes = pa.decompress(data[:-4], decompressed_size=size, codec="snappy", asbytes=True)
    if zlib.crc32(out) != int.from_bytes(data[-4:], "big"):
        raise ValueError("checksum")
    return out


def _unzstd(data: bytes) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=limits.MAX_WINDOW_BYTES)
    with decoder.stream_reader(data) as reader:
        return _bounded(reader.read(limits.MAX_BLOCK_BYTES + 1))


_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": _bounded,
    "deflate": lambda data: _finished(zlib.decompressobj(-15), data),
    "bzip2": lambda data: _finished(bz2.BZ2Decompressor(), data),
    "xz": lambda data: _finished(lzma.LZMADecompressor(memlimit=limits.MAX_WINDOW_BYTES), data),
    "snappy": _unsnappy,
    "zstandard": _unzstd,
}


# --- framing --------------------------------------------------------------------------------------


def _varint(data: Iterable[int]) -> int:
    value = 0
    for place, byte in enumerate(itertools.islice(data, 10)):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    raise ValueError("a number without an end")


class AvroBlocks:
    """A file whose header is read and whose blocks are yet to be.

    Attributes:
      schema: the writer's, as it stands in the file.

    Raises:
      InputFileError: when made, for a damaged or foreign header or an unknown codec.
    """

    def __init__(self, path: str, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        if self._exactly(len(_MAGIC)) != _MAGIC:
            self._refuse("not an Avro container file")
        metadata = self._metadata()
        self._sync = self._exactly(_SYNC_BYTES)
        codec = metadata.get(b"avro.codec", b"null").decode(errors="replace")
        if codec not in _CODECS:
            self._refuse(f"unknown Avro codec; write it with one of {', '.join(_CODECS)}")
        self._uncompress = _CODECS[codec]
        if b"avro.schema" not in metadata:
            self._refuse("damaged Avro file: it holds no schema")
        self.schema = metadata[b"avro.schema"]

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(number of records, their bytes) of each block.

        Raises:
          InputFileError: for a truncated file, a block that does not end where it says, is damaged
            or over MAX_BLOCK_BYTES, or promises more records than it has bytes; for blocks that
            expand beyond `limits` together.
        """
        taken = given = 0
        largest = f"{limits.MAX_BLOCK_BYTES >> 20} MiB"
        while start := self._stream.read(1):
            count = self._long(start)
            if count <= 0:
                self._refuse(f"damaged Avro file; {COPY_AGAIN}")
            packed = self._exactly(self._long())
            if self._exactly(_SYNC_BYTES) != self._sync:
                self._refuse(f"damaged Avro file: a block does not end where it says; {COPY_AGAIN}")
            try:
                data = self._uncompress(packed)
            except OverflowError:
                self._refuse(f"an Avro block of more than {largest}")
            except Exception:  # each codec has its own idea of an error
                self._refuse(f"damaged Avro block; {COPY_AGAIN}")
            taken, given = taken + len(packed), given + len(data)
            if given > max(limits.RATIO_FREE_BYTES, limits.MAX_RATIO * taken):
                self._refuse(
                    f"Avro blocks that expand from {taken} to more than {given} bytes, which no "
                    "log does; check where it came from"
                )
            if count > len(data):
                self._refuse("an Avro block promises more records than it has bytes")
            yield count, data

    def _refuse(self, problem: str) -> NoReturn:
        raise InputFileError(self._path, problem) from None

    def _metadata(self) -> dict[bytes, bytes]:
        metadata: dict[bytes, bytes] = {}
        while count := self._long():
            if count < 0:
                self._long()  # the size of what follows, for those who skip it
            for _ in range(abs(count)):
                key = self._exactly(self._long())
                metadata[key] = self._exactly(self._long())
        return metadata

    def _exactly(self, size: int) -> bytes:
        if not 0 <= size <= limits.MAX_BLOCK_BYTES:
            self._refuse(
                f"damaged Avro file, or a block of more than {limits.MAX_BLOCK_BYTES >> 20} MiB"
            )
        data = self._stream.read(size)
        if len(data) < size:
            self._refuse(f"truncated Avro file; {COPY_AGAIN}")
        return data

    def _long(self, start: bytes = b"") -> int:
        """A zigzag number, of which `start` has been read."""
        more = iter(lambda: self._exactly(1)[0], None)
        try:
            value = _varint(itertools.chain(start, more))
        except ValueError:
            self._refuse(f"damaged Avro file; {COPY_AGAIN}")
        return (value >> 1) ^ -(value & 1)
