"""Estimate from its header what an image file would cost its decoder, before a pixel is decoded.

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
MAX_SCAN_PIXELS: Final = 1_500_000_000  # scans times pixels of a JPEG in several scans
MAX_COEFFICIENTS: Final = 256_000_000  # coefficients of such a JPEG, at full size even if decoded smaller; 2 bytes each

_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_SCAN, _END = 0xDA, 0xD9
_BARE_MARKERS: Final = frozenset((0x00, 0x01, *range(0xD0, _SCAN)))  # markers without a length
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # among the pixels of a JPEG

_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE: Final = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}  # types of numbers
_WIDTH, _HEIGHT, _COMPRESSION, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES = 256, 257, 259, 279, 322, 323, 325

_DIB: Final = frozenset(size.to_bytes(4, "little") for size in (40, 52, 56, 64, 108, 124))  # a BMP's second header

_GAP: Final = rb"\s(?:\s|#[^\r\n]*[\r\n])*"
_PPM: Final = re.compile(rb"P(\w+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)(?:" + _GAP + rb"(\d+))?\s")
_PPM_HEADER: Final = 2**16


def find_excess(data: bytes, max_pixels: int) -> str:
    """Return in words what in this file exceeds a limit; an empty text for a file that may be opened.

    `max_pixels` is the limit of a whole image; the decoder itself refuses more.
    """
    if len(data) > MAX_BYTES:
        return f"a file of {len(data) // 10**6} MB; the limit is {MAX_BYTES // 10**6} MB"
    try:
        if data.startswith(b"\xff\xd8"):
            return _check_jpeg(data)
        if data.startswith(b"\x89PNG"):
            return _check_count(_iter_chunks(data), "chunks")
        if data.startswith(b"GIF8"):
            return _check_count(_iter_blocks(data), "blocks before its pixels")
        if data.startswith(b"BM"):
            return _check_bitmap(data, 14)
        if data[:4] in _DIB:
            return _check_bitmap(data, 0)
        if data.startswith((b"II", b"MM")):
            return _check_tiff(data, max_pixels)
        if data.startswith(b"\0\0\1\0"):
            return _check_icon(data)
        if data.startswith(b"P"):
            return _check_ppm(data)
    except (struct.error, IndexError, OverflowError):  # the header is cut short or points nowhere: Pillow will say so
        pass
    return ""


def _check_count(parts: Iterable[object], what: str) -> str:
    return f"more than {MAX_PARTS:,} {what}" if any(at >= MAX_PARTS for at, _ in enumerate(parts)) else ""


# --- JPEG: in one scan it costs its pixels and bytes; in several, each scan walks over all that is kept ---------------


def _check_jpeg(data: bytes) -> str:
    size = coefficients = scans = components = 0
    progressive = False
    for part, (marker, body) in enumerate(_iter_segments(data)):
        if part >= MAX_PARTS:
            return f"more than {MAX_PARTS:,} segments"
        if marker in _FRAME_MARKERS:
            (size, coefficients, components), progressive = _read_frame(data, body), marker in _PROGRESSIVE
        elif marker == _SCAN:
            scans += 1
            if not progressive and data[body] >= components:
                return ""
        elif marker == _END and scans:
            break
    return _check_scans(scans, size, coefficients)


def _iter_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset after its length) of each segment; marker -1 for each byte outside of segments."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1] if data[at] == 0xFF else -1
        if marker in (-1, 0xFF):
            yield -1, at
            at += 1
            continue
        yield marker, at + 4
        at += 2 if marker in _BARE_MARKERS else 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _SCAN:
            found = _MARKER.search(data, at)
            at = found.start() if found else len(data)


def _read_frame(data: bytes, body: int) -> tuple[int, int, int]:
    """Return the numbers of pixels, coefficients and components."""
    height, width, components = struct.unpack_from(">HHB", data, body + 1)
    shares = [(each >> 4) * (each & 15) for each in data[body + 7 : body + 6 + 3 * components : 3]]
    return height * width, height * width * sum(shares) // max(*shares, 1, 1), components


def _check_scans(scans: int, size: int, coefficients: int) -> str:
    if coefficients > MAX_COEFFICIENTS:
        limit = MAX_COEFFICIENTS // 10**6
        return f"a JPEG in several scans of {coefficients // 10**6} million numbers; the limit is {limit}"
    if scans * size > MAX_SCAN_PIXELS:
        return f"{scans} scans of {size / 10**6:.1f} megapixels"
    return ""


# --- PNG and GIF ------------------------------------------------------------------------------------------------------


def _iter_chunks(data: bytes) -> Iterator[int]:
    at = 8
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":  # nobody reads what follows
        yield at
        at += 12 + int.from_bytes(data[at : at + 4])


def _iter_blocks(data: bytes) -> Iterator[int]:
    """Yield the offsets of the blocks before the first image."""
    at = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0)
    while data[at] not in (0x2C, 0x3B):  # an image, the end
        yield at
        extension = data[at] == 0x21
        at += 2 if extension else 1
        while extension:
            yield at
            at, extension = at + 1 + data[at], data[at] > 0


# --- what Pillow unpacks in Python ------------------------------------------------------------------------------------


def _check_bitmap(data: bytes, at: int) -> str:
    """Check a BMP whose DIB header is at this offset; only run-length encoding is slow."""
    size, width, height, compression = struct.unpack_from("<Iii4xI", data, at)
    return _check_steps(len(data) + width * abs(height)) if size >= 40 and compression in (1, 2) else ""


def _check_icon(data: bytes) -> str:
    """Pillow decodes one of the images while it opens the file, before anybody can ask for its size."""
    if 2 * len(data) > MAX_STEPS:
        return f"an icon of {len(data) / 10**6:.1f} MB"
    for head in re.finditer(b"IHDR", data):  # wherever it stands, and however often
        width, height = struct.unpack_from(">II", data.ljust(head.end() + 8, b"\0"), head.end())
        if excess := _check_steps(width * height):
            return excess
    for number in range(struct.unpack_from("<H", data, 4)[0]):
        (at,) = struct.unpack_from("<I", data, 6 + 16 * number + 12)
        size, width, height = struct.unpack_from("<Iii", data[at:].ljust(12, b"\0")[:12])
        if 40 <= size < 256 and (excess := _check_steps(len(data) + width * abs(height))):
            return excess
    return ""


def _check_ppm(data: bytes) -> str:
    """Check a PPM: as text, or with an unusual number of levels, Pillow reads it in Python."""
    if len(data) <= _PPM_HEADER:
        return ""
    found = _PPM.match(data, 0, _PPM_HEADER)
    if not found:
        return f"no PPM header in its first {_PPM_HEADER // 1024} kB"
    if found[1] in (b"1", b"2", b"3"):
        return _check_steps(len(data))
    plain = (b"255", b"65535") if found[1] == b"5" else (b"255",)
    return _check_steps(2 * len(data)) if found[1] not in (b"4", b"f", b"F") and found[4] not in plain else ""


def _check_steps(steps: int) -> str:
    return f"{steps / 10**6:.1f} million steps of a slow decoder" if steps > MAX_STEPS else ""


# --- TIFF -------------------------------------------------------------------------------------------------------------


def _check_tiff(data: bytes, max_pixels: int) -> str:
    order = "<" if data.startswith(b"II") else ">"
    places = _read_tags(data, order)
    if len(places) > MAX_TAGS:
        return f"more than {MAX_TAGS:,} tags"
    if any(count > MAX_PARTS for kind, count, _ in places.values() if _BYTES.get(kind, 1) > 1):
        return f"a tag of more than {MAX_PARTS:,} numbers"
    numbers = {tag: _read_numbers(data, order, *places[tag]) for tag in _NEEDED_TAGS if tag in places}
    first = {tag: values[0] for tag, values in numbers.items() if values}
    if first.get(_TILE_WIDTH, 0) * first.get(_TILE_HEIGHT, 0) > max_pixels:
        return f"tiles of {first[_TILE_WIDTH]} x {first[_TILE_HEIGHT]} pixels"
    if first.get(_COMPRESSION, 1) != 1 and sum(sum(numbers.get(tag, ())) for tag in _PART_SIZE_TAGS) > 2 * len(data):
        return "parts that overlap"
    if first.get(_COMPRESSION) in (6, 7) and any(bytes((0xFF, marker)) in data for marker in _PROGRESSIVE):
        size = first.get(_WIDTH, 0) * first.get(_HEIGHT, 0)
        return _check_scans(data.count(bytes((0xFF, _SCAN))), size, size)
    return ""


_PART_SIZE_TAGS: Final = (_STRIP_BYTES, _TILE_BYTES)
_NEEDED_TAGS: Final = (_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT, *_PART_SIZE_TAGS)


def _read_tags(data: bytes, order: str) -> dict[int, tuple[int, int, int]]:
    """Read (type, count, offset) of each tag of the first page; stops after MAX_TAGS + 1."""
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


def _read_numbers(data: bytes, order: str, kind: int, count: int, place: int) -> tuple[int, ...]:
    there = kind in _WHOLE and place + count * _BYTES[kind] <= len(data)
    return struct.unpack_from(f"{order}{count}{_WHOLE[kind]}", data, place) if there else ()
