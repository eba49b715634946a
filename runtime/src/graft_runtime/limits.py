"""What a file would cost its decoder, told from its header before a pixel is decoded.

A thread that decodes cannot be stopped, and a clock would refuse other files on a busy machine than on an idle one. So
what makes a decoder slow or greedy is counted first: a file is refused, the same everywhere, or it decodes in bounded
time and memory. The limits are for what Pillow 13 does; runtime/tests/hostile.py makes a file for each of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final

MAX_BYTES: Final = 256 * 2**20  # a file
MAX_PARTS: Final = 2**16  # segments, chunks, blocks, strips, numbers of a tag: Pillow walks over them in Python
MAX_TAGS: Final = 2**12  # of a TIFF
MAX_STEPS: Final = 5_000_000  # pixels and bytes that Pillow unpacks in Python, about 0.4 µs each
MAX_SCANNED: Final = 1_500_000_000  # scans times pixels of a JPEG in several scans
MAX_KEPT: Final = 256_000_000  # coefficients of such a JPEG, at full size whatever is asked for; 2 bytes each

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_SCAN, _END = 0xDA, 0xD9
_ALONE: Final = frozenset((0x00, 0x01, *range(0xD0, _SCAN)))  # markers without a length
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # among the pixels of a JPEG

_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE: Final = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}  # types of numbers
_WIDTH, _HEIGHT, _COMPRESSION, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES = 256, 257, 259, 279, 322, 323, 325

_DIB: Final = frozenset(size.to_bytes(4, "little") for size in (40, 52, 56, 64, 108, 124))  # a BMP's second header

_GAP: Final = rb"\s(?:\s|#[^\r\n]*[\r\n])*"
_PPM: Final = re.compile(rb"P(\w+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)(?:" + _GAP + rb"(\d+))?\s")
_PPM_HEADER: Final = 2**16


def excess(data: bytes, pixels: int) -> str:
    """What in this file is too much for a decoder, in words; nothing for a file that may be opened.

    `pixels` is what a whole picture may have; more than that is for the decoder to refuse.
    """
    if len(data) > MAX_BYTES:
        return f"a file of {len(data) // 10**6} MB; the limit is {MAX_BYTES // 10**6} MB"
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG"):
            return _many(_chunks(data), "chunks")
        if data.startswith(b"GIF8"):
            return _many(_blocks(data), "blocks before its pixels")
        if data.startswith(b"BM"):
            return _bitmap(data, 14)
        if data[:4] in _DIB:
            return _bitmap(data, 0)
        if data.startswith((b"II", b"MM")):
            return _tiff(data, pixels)
        if data.startswith(b"\0\0\1\0"):
            return _icon(data)
        if data.startswith(b"P"):
            return _ppm(data)
    except (struct.error, IndexError, OverflowError):  # the header is cut short or points nowhere: Pillow will say so
        pass
    return ""


def _many(parts: Iterable[object], what: str) -> str:
    return f"more than {MAX_PARTS:,} {what}" if any(at >= MAX_PARTS for at, _ in enumerate(parts)) else ""


# --- JPEG: in one scan it costs its pixels and bytes; in several, each scan walks over all that is kept ---------------


def _jpeg(data: bytes) -> str:
    size = kept = scans = components = 0
    progressive = False
    for part, (marker, body) in enumerate(_segments(data)):
        if part >= MAX_PARTS:
            return f"more than {MAX_PARTS:,} segments"
        if marker in _FRAMES:
            (size, kept, components), progressive = _frame(data, body), marker in _PROGRESSIVE
        elif marker == _SCAN:
            scans += 1
            if not progressive and data[body] >= components:
                return ""
        elif marker == _END and scans:
            break
    return _scanned(scans, size, kept)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, place of what follows its length) of each segment; marker -1 for each byte that belongs to none."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1] if data[at] == 0xFF else -1
        if marker in (-1, 0xFF):
            yield -1, at
            at += 1
            continue
        yield marker, at + 4
        at += 2 if marker in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _SCAN:
            found = _MARKER.search(data, at)
            at = found.start() if found else len(data)


def _frame(data: bytes, body: int) -> tuple[int, int, int]:
    """Pixels, coefficients and components."""
    height, width, components = struct.unpack_from(">HHB", data, body + 1)
    shares = [(each >> 4) * (each & 15) for each in data[body + 7 : body + 6 + 3 * components : 3]]
    return height * width, height * width * sum(shares) // max(*shares, 1, 1), components


def _scanned(scans: int, size: int, kept: int) -> str:
    if kept > MAX_KEPT:
        return f"a JPEG in several scans of {kept // 10**6} million numbers; the limit is {MAX_KEPT // 10**6}"
    if scans * size > MAX_SCANNED:
        return f"{scans} scans of {size / 10**6:.1f} megapixels"
    return ""


# --- PNG and GIF ------------------------------------------------------------------------------------------------------


def _chunks(data: bytes) -> Iterator[int]:
    at = 8
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":  # nobody reads what follows
        yield at
        at += 12 + int.from_bytes(data[at : at + 4])


def _blocks(data: bytes) -> Iterator[int]:
    """The parts of all that comes before the first picture."""
    at = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0)
    while data[at] not in (0x2C, 0x3B):  # a picture, the end
        yield at
        extension = data[at] == 0x21
        at += 2 if extension else 1
        while extension:
            yield at
            at, extension = at + 1 + data[at], data[at] > 0


# --- what Pillow unpacks in Python ------------------------------------------------------------------------------------


def _bitmap(data: bytes, at: int) -> str:
    """A BMP whose header is there; only run-length encoding is slow."""
    size, width, height, compression = struct.unpack_from("<Iii4xI", data, at)
    return _slow(len(data) + width * abs(height)) if size >= 40 and compression in (1, 2) else ""


def _icon(data: bytes) -> str:
    """Pillow decodes one of the pictures while it opens the file, before anybody can ask for its size."""
    if 2 * len(data) > MAX_STEPS:
        return f"an icon of {len(data) / 10**6:.1f} MB"
    for head in re.finditer(b"IHDR", data):  # wherever it stands, and however often
        width, height = struct.unpack_from(">II", data.ljust(head.end() + 8, b"\0"), head.end())
        if said := _slow(width * height):
            return said
    for number in range(struct.unpack_from("<H", data, 4)[0]):
        (at,) = struct.unpack_from("<I", data, 6 + 16 * number + 12)
        size, width, height = struct.unpack_from("<Iii", data[at:].ljust(12, b"\0")[:12])
        if 40 <= size < 256 and (said := _slow(len(data) + width * abs(height))):
            return said
    return ""


def _ppm(data: bytes) -> str:
    """As text, or with an odd number of levels."""
    if len(data) <= _PPM_HEADER:
        return ""
    found = _PPM.match(data, 0, _PPM_HEADER)
    if not found:
        return f"no PPM header in its first {_PPM_HEADER // 1024} kB"
    if found[1] in (b"1", b"2", b"3"):
        return _slow(len(data))
    plain = (b"255", b"65535") if found[1] == b"5" else (b"255",)
    return _slow(2 * len(data)) if found[1] not in (b"4", b"f", b"F") and found[4] not in plain else ""


def _slow(steps: int) -> str:
    return f"{steps / 10**6:.1f} million steps of a slow decoder" if steps > MAX_STEPS else ""


# --- TIFF -------------------------------------------------------------------------------------------------------------


def _tiff(data: bytes, pixels: int) -> str:
    order = "<" if data.startswith(b"II") else ">"
    places = _tags(data, order)
    if len(places) > MAX_TAGS:
        return f"more than {MAX_TAGS:,} tags"
    if any(count > MAX_PARTS for kind, count, _ in places.values() if _BYTES.get(kind, 1) > 1):
        return f"a tag of more than {MAX_PARTS:,} numbers"
    numbers = {tag: _numbers(data, order, *places[tag]) for tag in _ASKED if tag in places}
    first = {tag: values[0] for tag, values in numbers.items() if values}
    if first.get(_TILE_WIDTH, 0) * first.get(_TILE_HEIGHT, 0) > pixels:
        return f"tiles of {first[_TILE_WIDTH]} x {first[_TILE_HEIGHT]} pixels"
    if first.get(_COMPRESSION, 1) != 1 and sum(sum(numbers.get(tag, ())) for tag in _STORED) > 2 * len(data):
        return "parts that overlap"
    if first.get(_COMPRESSION) in (6, 7) and any(bytes((0xFF, marker)) in data for marker in _PROGRESSIVE):
        size = first.get(_WIDTH, 0) * first.get(_HEIGHT, 0)
        return _scanned(data.count(bytes((0xFF, _SCAN))), size, size)
    return ""


_STORED: Final = (_STRIP_BYTES, _TILE_BYTES)
_ASKED: Final = (_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT, *_STORED)


def _tags(data: bytes, order: str) -> dict[int, tuple[int, int, int]]:
    """(type, how many, where) of each tag of the first page; no more of them than tell that they are too many."""
    big = 43 in data[2:4]
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)
    entry, inside, places = (f"{order}HHQ", 8, {}) if big else (f"{order}HHL", 4, {})
    at += 8 if big else 2
    there = (len(data) - at) // (struct.calcsize(entry) + inside)  # Pillow takes what there is of a table cut short
    for _ in range(min(count, there, MAX_TAGS + 1)):
        tag, kind, many = struct.unpack_from(entry, data, at)
        place = at + struct.calcsize(entry)
        if many * _BYTES.get(kind, 0) > inside:
            (place,) = struct.unpack_from(f"{order}{entry[-1]}", data, place)
        places.setdefault(tag, (kind, many, place))  # Pillow keeps the first as well
        at += struct.calcsize(entry) + inside
    return places


def _numbers(data: bytes, order: str, kind: int, count: int, place: int) -> tuple[int, ...]:
    there = kind in _WHOLE and place + count * _BYTES[kind] <= len(data)
    return struct.unpack_from(f"{order}{count}{_WHOLE[kind]}", data, place) if there else ()
