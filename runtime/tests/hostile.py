"""Files made to cost a decoder far more time or memory than their size tells; each is a few MB at most."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

MEGA = 10**6


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- JPEG -------------------------------------------------------------------------------------------------------------


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _jpeg(sof: int, width: int, height: int, components: int, scans: bytes, before: bytes = b"") -> bytes:
    """A JPEG by hand: one quantisation table of ones, and Huffman tables in which every code has one bit."""
    tables = _segment(0xDB, b"\0" + b"\1" * 64)
    tables += _segment(0xC4, b"\0" + b"\1" + bytes(15) + b"\0")  # DC: '0' is 'no difference'
    tables += _segment(
        0xC4, b"\x10" + b"\1\1" + bytes(14) + b"\0\xe0"
    )  # AC: '0' ends a block, '10' ends 16,384 of them
    parts = b"".join(struct.pack("BBB", each + 1, 0x11, 0) for each in range(components))
    frame = _segment(sof, struct.pack(">BHHB", 8, height, width, components) + parts)
    return b"\xff\xd8" + before + tables + frame + scans + b"\xff\xd9"


def _scan(component: int, start: int, end: int, approximation: int, data: bytes) -> bytes:
    return _segment(0xDA, struct.pack("BBBBBB", 1, component, 0, start, end, approximation)) + data


def many_scans(side: int = 8000, scans: int = 1000) -> bytes:
    """A progressive JPEG in which each of many scans walks over all blocks and changes nothing."""
    blocks = ((side + 7) // 8) ** 2
    ends = _bits("10" + "0" * 14, -(-blocks // 2**14))  # code, then 14 bits more for the length of the run
    first = _scan(1, 0, 0, 0, bytes(-(-blocks // 8)))
    return _jpeg(0xC2, side, side, 1, first + _scan(1, 1, 63, 0, ends) * scans)


def many_refinements(side: int = 8000, scans: int = 1000) -> bytes:
    """The same with scans that refine."""
    blocks = ((side + 7) // 8) ** 2
    ends = _bits("10" + "0" * 14, -(-blocks // 2**14))
    first = _scan(1, 0, 0, 0, bytes(-(-blocks // 8)))
    return _jpeg(
        0xC2, side, side, 1, first + (_scan(1, 1, 63, 0x21, ends) + _scan(1, 1, 63, 0x10, ends)) * (scans // 2)
    )


def _bits(code: str, times: int) -> bytes:
    bits = code * times
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def wide_progressive(side: int = 60000) -> bytes:
    """A progressive JPEG of gigapixels: scaled down it is small, its coefficients are not."""
    return _jpeg(0xC2, side, side, 3, _scan(1, 0, 0, 0, bytes(MEGA)))


def wide_baseline(side: int = 60000) -> bytes:
    """A baseline JPEG of gigapixels: scaled down by 8 it is below the limit of pixels."""
    blocks = (side // 8) ** 2
    scan = _segment(0xDA, struct.pack("BBBBBB", 1, 1, 0, 0, 63, 0)) + bytes(blocks * 2 // 8)
    return _jpeg(0xC0, side, side, 1, scan)


def many_segments(count: int = 2 * MEGA) -> bytes:
    """Empty comments before the image."""
    return _jpeg(0xC0, 8, 8, 1, _scan(1, 0, 63, 0, b"\0"), _segment(0xFE, b"") * count)


def padding(count: int = 16 * MEGA) -> bytes:
    """Fill bytes before the first marker."""
    return _jpeg(0xC0, 8, 8, 1, _scan(1, 0, 63, 0, b"\0"), b"\xff" * count)


def junk(count: int = 16 * MEGA) -> bytes:
    """Bytes that belong to no segment."""
    return _jpeg(0xC0, 8, 8, 1, _scan(1, 0, 63, 0, b"\0"), bytes(count))


# --- PNG, ICO ---------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, colour: int, extra: bytes = b"", depth: int = 8, interlaced: int = 0) -> bytes:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    row = b"\4" + bytes(width * channels * depth // 8)  # the costliest filter
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + head + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def many_chunks(count: int = MEGA) -> bytes:
    return _png(8, 8, 0, _chunk(b"abCd", b"") * count)


def many_data_chunks(count: int = MEGA) -> bytes:
    whole = _png(8, 8, 0)
    at = whole.index(b"IDAT") - 4
    return whole[:at] + _chunk(b"IDAT", b"") * count + whole[at:]


def text_bombs(count: int = 70) -> bytes:
    """Compressed texts of just below 1 MiB each."""
    return _png(8, 8, 0, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9), 9)) * count)


def _gigabyte() -> bytes:
    """Zeros, packed: one megabyte, a thousand times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"\x78\xda" + (packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)) * 1000 + b"\3\0" + bytes(4)


def profile_bomb() -> bytes:
    """A colour profile of 1 GB."""
    return _png(8, 8, 2, _chunk(b"iCCP", b"a\0\0" + _gigabyte()))


def data_bomb() -> bytes:
    """Pixels of a small image, followed by 1 GB of nothing in the same stream."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", _gigabyte()) + _chunk(b"IEND", b"")


def icon_bomb(side: int = 5000) -> bytes:
    """An icon that says it is 16 x 16 and holds a PNG of 25 megapixels."""
    body = _png(side, side, 6)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(body), 22) + body


def icon_behind(entry: bytes = b"\xff" * 4) -> bytes:
    """The same behind an entry that points nowhere, its size said a second time."""
    whole = _png(16, 16, 6)
    inner = whole[:33] + _png(5000, 5000, 6)[8:]
    first = struct.pack("<BBBBHHI", 8, 8, 0, 0, 1, 32, 8) + entry
    return struct.pack("<HHH", 0, 1, 2) + first + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 38) + inner


def icon_of_rows(side: int = 7000) -> bytes:
    """The same with a bitmap in which every byte is a run: Pillow unpacks these in Python."""
    runs = b"\1\0" * (2 * MEGA)
    head = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    body = head + bytes(1024) + runs
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(body), 22) + body


# --- BMP, PPM, GIF, TIFF, WebP ----------------------------------------------------------------------------------------


def _bitmap(width: int, height: int, runs: bytes, compression: int = 1, depth: int = 8) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(runs), 0, 0, 2**depth, 0)
    at = 14 + 40 + 4 * 2**depth
    return struct.pack("<2sIHHI", b"BM", at + len(runs), 0, 0, at) + head + bytes(4 * 2**depth) + runs


def runs_of_one(count: int = 8 * MEGA, side: int = 8000) -> bytes:
    return _bitmap(side, side, b"\1\0" * count)


def ends_of_line(side: int = 8000) -> bytes:
    """Every row is filled up by Python, byte for byte."""
    return _bitmap(side, side, b"\1\0\0\0" * side)


def no_progress(count: int = 8 * MEGA) -> bytes:
    return _bitmap(8000, 8000, b"\0\0" * count)


def runs_of_half_bytes() -> bytes:
    return _bitmap(8000, 8000, b"\xff\0" * (300_000), 2, 4)


def plain_text(side: int = 2400) -> bytes:
    return b"P3 %d %d 255\n" % (side, side) + b"0 " * (3 * side * side)


def odd_depth(side: int = 3000) -> bytes:
    return b"P6 %d %d 254\n" % (side, side) + bytes(3 * side * side)


def split_number(side: int = 3000) -> bytes:
    """A height that a comment interrupts: 30, then 00; who does not join them takes 255 for the number of levels."""
    return b"P6 %d 3#\n255 254\n" % side + bytes(3 * side * 3255)


def endless_comment(count: int = 32 * MEGA) -> bytes:
    return b"P5 #" + bytes(count) + b"\n8 8 255\n" + bytes(64)


def endless_space(count: int = 32 * MEGA) -> bytes:
    return b"P5 " + b" " * count + b"8 8 255\n" + bytes(64)


def comment_blocks(count: int = 4 * MEGA) -> bytes:
    """A GIF with one comment in very many parts."""
    body = b"\x21\xfe" + b"\1a" * count + b"\0"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + body + b"\x2c" + bytes(9) + b"\2\0\x3b"


def many_extensions(count: int = 4 * MEGA) -> bytes:
    body = b"\x21\xaa\0" * count
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + body + b"\x2c" + bytes(9) + b"\2\0\x3b"


def wide_frame() -> bytes:
    """A GIF whose screen is small and whose first frame is not."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
    return head + b"\x2c" + struct.pack("<HHHHB", 0, 0, 13000, 13000, 0) + b"\2\1\x44\0\x3b"


def _tiff(tags: dict[int, tuple[int, int, bytes]], data: bytes) -> bytes:
    """Tags as {number: (type, count, value)}; `data` lies at byte 8."""
    at, entries, long = 8 + len(data), b"", b""
    room = at + 2 + 12 * len(tags) + 4
    for tag, (kind, count, value) in sorted(tags.items()):
        if len(value) > 4:
            entries += struct.pack("<HHII", tag, kind, count, room + len(long))
            long += value
        else:
            entries += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + long


def _long(*values: int) -> tuple[int, int, bytes]:
    return 4, len(values), struct.pack(f"<{len(values)}I", *values)


def huge_tile(side: int = 46336) -> bytes:
    """A tile of 2 GB in an image of 64 pixels."""
    packed = zlib.compress(bytes(MEGA), 9)
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(packed)}
    return _tiff({tag: _long(value) for tag, value in tags.items()}, packed)


def many_strips(count: int = MEGA) -> bytes:
    """One row of one pixel in each."""
    tags = {256: 1, 257: count, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    both = {273: _long(*[8] * count), 279: _long(*[1] * count)}
    return _tiff({tag: _long(value) for tag, value in tags.items()} | both, b"\0" * 8)


def cut_short(side: int = 46336) -> bytes:
    """The huge tile, in a table that says it has one tag more than there are."""
    whole = huge_tile(side)
    (at,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, at)
    return whole[:at] + struct.pack("<H", count + 1) + whole[at + 2 : at + 2 + 12 * count]


def many_tags(size: int = 800_000, count: int = 65535) -> bytes:
    """Tags that are all the same megabyte."""
    data = bytes(size)
    at = 8 + len(data)
    entries = b"".join(struct.pack("<HHII", tag, 7, size, 8) for tag in range(count))
    return b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", count) + entries + bytes(4)


def long_numbers(count: int = 4 * MEGA) -> bytes:
    """A tag of very many fractions."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    every = {tag: _long(value) for tag, value in tags.items()}
    return _tiff(every | {282: (5, count, b"\1\0\0\0\1\0\0\0" * count)}, bytes(64))


def scans_in_tiff(side: int = 8000, scans: int = 1000) -> bytes:
    """A strip that is a JPEG of many scans."""
    data = many_scans(side, scans)
    tags = {256: side, 257: side, 258: 8, 259: 7, 262: 1, 273: 8, 277: 1, 278: side, 279: len(data)}
    return _tiff({tag: _long(value) for tag, value in tags.items()}, data)


def exif_bomb() -> bytes:
    """An EXIF block of 65,535 entries that are all the same megabyte, in a PNG."""
    return _png(8, 8, 2, _chunk(b"eXIf", many_tags()))


def large(kind: str, mode: str, side: int = 8000, **options: object) -> Callable[[], bytes]:
    """An honest image of as many pixels as are allowed, full of noise."""

    def make() -> bytes:
        noise = Image.effect_noise((1000, 1000), 60)
        square = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).convert(mode)
        whole = Image.new(mode, (side, side))
        for left in range(0, side, 1000):
            for top in range(0, side, 1000):
                whole.paste(square, (left, top))
        return _saved(whole, kind, **options)

    return make


CASES: dict[str, Callable[[], bytes]] = {
    each.__name__.replace("_", " "): each
    for each in (
        *(many_scans, many_refinements, wide_progressive, wide_baseline, many_segments, padding, junk),
        *(many_chunks, many_data_chunks, text_bombs, profile_bomb, data_bomb, icon_bomb, icon_behind, icon_of_rows),
        *(runs_of_one, ends_of_line, no_progress, runs_of_half_bytes, plain_text, odd_depth, split_number),
        *(endless_comment, endless_space, comment_blocks, many_extensions, wide_frame),
        *(huge_tile, many_strips, cut_short, many_tags, long_numbers, scans_in_tiff, exif_bomb),
    )
}
BELOW: dict[str, Callable[[], bytes]] = {  # the costliest that still pass
    "22 scans": lambda: many_scans(8000, 22),
    "22 refinements": lambda: many_refinements(8000, 22),
    "1,500 scans": lambda: many_refinements(1000, 1498),
    "scans in strips": lambda: scans_in_tiff(8000, 22),
    "segments": lambda: many_segments(65_000),
    "fill bytes": lambda: padding(65_000),
    "chunks": lambda: many_chunks(65_000),
    "data chunks": lambda: many_data_chunks(65_000),
    "texts": lambda: text_bombs(63),
    "runs": lambda: runs_of_one(2_400_000, 400),
    "rows": lambda: ends_of_line(2230),
    "text": lambda: plain_text(900),
    "levels": lambda: odd_depth(900),
    "icon": lambda: icon_bomb(2200),
    "blocks": lambda: comment_blocks(65_000),
    "tile": lambda: huge_tile(8000),
    "strips": lambda: many_strips(65_000),
    "fractions": lambda: long_numbers(65_000),
    "tags": lambda: many_tags(800_000, 4000),
}
LARGE: dict[str, Callable[[], bytes]] = {
    "PNG RGB": large("PNG", "RGB", compress_level=1),
    "PNG RGBA": large("PNG", "RGBA", compress_level=1),
    "PNG P": large("PNG", "P", compress_level=1),
    "PNG 16": large("PNG", "I;16", compress_level=1),
    "JPEG": large("JPEG", "RGB", quality=90),
    "JPEG progressive": large("JPEG", "RGB", quality=90, progressive=True),
    "JPEG CMYK": large("JPEG", "CMYK", quality=90),
    "WEBP lossy": large("WEBP", "RGB", 6320, quality=50, method=0),
    "WEBP lossless": large("WEBP", "RGBA", 6320, lossless=True, quality=0, method=0),
    "GIF": large("GIF", "P"),
    "TIFF raw": large("TIFF", "RGB"),
    "TIFF F": large("TIFF", "F"),
    "TIFF LZW": large("TIFF", "RGB", compression="tiff_lzw"),
    "TIFF zip": large("TIFF", "RGBA", compression="tiff_deflate"),
    "BMP": large("BMP", "RGB"),
    "PPM": large("PPM", "RGB"),
}
