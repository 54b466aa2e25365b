"""Text files: bytes that may be compressed, lines of bounded length, UTF-8.

* .gz, .gzip, .zst and .zstd are decompressed, in any case of letters; any other suffix is plain
  text. Several gzip members or Zstandard frames in a row are one text. Data that is compressed in
  another way, or twice, or under a plain name, is refused, for it would be read as bad lines.
* Decompression stops at `limits.MAX_RATIO`, `RATIO_FREE_BYTES` and `MAX_TEXT_BYTES`.
* A line ends with a line feed; the last one may lack it. A byte order mark at the start is dropped.
* A line over `limits.MAX_LINE_BYTES` is never held whole.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import polars as pl
import zstandard

from transforms.adapters.base import InputFile
from transforms.adapters.containers import limits
from transforms.adapters.containers.tables import COPY_AGAIN
from transforms.errors import InputFileError


class _Codec(NamedTuple):
    name: str
    suffixes: tuple[str, ...]
    magic: bytes
    new: Callable[[], Any]  # an object with decompress(bytes), eof, unused_data
    feed: int  # compressed bytes a call: so small that what one call can give is bounded


_CODECS = (
    _Codec("gzip", (".gz", ".gzip"), b"\x1f\x8b", lambda: zlib.decompressobj(31), 16 << 10),
    _Codec(
        "Zstandard",
        (".zst", ".zstd"),
        b"\x28\xb5\x2f\xfd",
        lambda: zstandard.ZstdDecompressor(max_window_size=limits.MAX_WINDOW_BYTES).decompressobj(),
        2 << 10,
    ),
)

# How the data of other tools starts: what `open_text` does not read.
_FOREIGN = {
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
    "LZ4": re.compile(rb"\x04\x22\x4d\x18"),
}
_START_BYTES = 10


def _packed_as(start: bytes) -> tuple[str, str | None] | None:
    """How data that starts so is compressed, and the suffix that is due if it can be read."""
    for codec in _CODECS:
        if start.startswith(codec.magic):
            return codec.name, codec.suffixes[0]
    return next(((name, None) for name, magic in _FOREIGN.items() if magic.match(start)), None)


def _decompressed(path: str, raw: BinaryIO, codec: _Codec) -> Iterator[bytes]:
    """What `raw` holds, in chunks that are not empty.

    The libraries' own readers will not do: they pass over zeros after the end (gzip) or a
    truncation (Zstandard), and do not count.
    """
    taken = given = 0
    decoder = None
    while chunk := raw.read(codec.feed):
        taken += len(chunk)
        while chunk:
            decoder = decoder or codec.new()
            try:
                out = decoder.decompress(chunk)
            except (zlib.error, zstandard.ZstdError, MemoryError):
                raise InputFileError(
                    path,
                    f"damaged {codec.name} data, or bytes after its end, near byte {taken}; "
                    + COPY_AGAIN,
                ) from None
            given += len(out)
            if given > limits.MAX_TEXT_BYTES or given > max(
                limits.RATIO_FREE_BYTES, limits.MAX_RATIO * taken
            ):
                raise InputFileError(
                    path,
                    f"expands from {taken} to more than {given} bytes, which no log does; "
                    "check where it came from",
                )
            if out:
                yield out
            chunk = b""
            if decoder.eof:  # the next member or frame starts in what is left
                chunk, decoder = decoder.unused_data, None
    if decoder is not None or not taken:
        raise InputFileError(path, f"truncated {codec.name} data; {COPY_AGAIN}")


class _Decompressed(io.RawIOBase):
    """`_decompressed` as a stream; closing it closes `raw`."""

    def __init__(self, path: str, raw: BinaryIO, codec: _Codec) -> None:
        self._raw = raw
        self._chunks = _decompressed(path, raw, codec)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


def open_text(file: InputFile) -> BinaryIO:
    """The bytes of a text file, decompressed by the suffix .gz, .gzip, .zst, .zstd, else as is.

    Several gzip members or Zstandard frames in a row are one text.

    Args:
      file: the file; closing the stream that is returned closes it.

    Raises:
      InputFileError: when opened, for data that is compressed in another way than the suffix says,
        or twice; then or while reading, for truncated or damaged data, bytes after its end, or
        expansion beyond `limits`.
    """
    raw = file.open()
    for codec in _CODECS:
        if file.path.lower().endswith(codec.suffixes):
            text = io.BufferedReader(_Decompressed(file.path, raw, codec), limits.READ_BYTES)
            within = _packed_as(text.peek(_START_BYTES))
            if within is not None:
                text.close()
                raise InputFileError(
                    file.path, f"has {within[0]} data inside {codec.name} data; unpack it once"
                )
            return text
    packed = _packed_as(raw.read(_START_BYTES))
    raw.seek(0)
    if packed is None:
        return raw
    raw.close()
    name, suffix = packed
    remedy = f"rename it to end in {suffix}" if suffix else "Playhead reads plain text, .gz, .zst"
    raise InputFileError(file.path, f"is {name} data; {remedy}")


def without_bom(data: bytes) -> bytes:
    """The data without the byte order mark that it may start with."""
    return data.removeprefix(b"\xef\xbb\xbf")


def line_batches(stream: BinaryIO) -> Iterator[tuple[int, list[bytes | None]]]:
    """Batches of at most BATCH_ROWS lines without their line feed, with the number of the first.

    None stands for a line of more than MAX_LINE_BYTES. A line feed at the very end starts no line.
    """
    longest = limits.MAX_LINE_BYTES
    number, tail, first = 0, b"", True
    while chunk := stream.read(limits.READ_BYTES):
        lines = (tail + chunk).split(b"\n")
        if first:
            lines[0], first = without_bom(lines[0]), False
        tail = lines.pop()[: longest + 1]  # enough to know that it is too long
        for at in range(0, len(lines), limits.BATCH_ROWS):
            batch = lines[at : at + limits.BATCH_ROWS]
            yield number, [line if len(line) <= longest else None for line in batch]
            number += len(batch)
    if tail:
        yield number, [tail if len(tail) <= longest else None]


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8, in which surrogates do not occur."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def decoded(raw: pl.Series) -> pl.Series:
    """A Binary column as String of the same name; null where it is null or not UTF-8."""
    try:
        return raw.cast(pl.String)
    except pl.exceptions.ComputeError:  # also with strict=False: find the values ourselves
        texts = [None if data is None or not is_utf8(data) else data.decode() for data in raw]
        return pl.Series(raw.name, texts, dtype=pl.String)
