"""Decode and parse delimited text: CSV, TSV, and lists of paths and labels without a header."""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Callable, Sequence
from contextlib import suppress

from graft.data.readers.folder import SPLIT_FOLDERS
from graft.errors import DataError
from graft_runtime.formats import IMAGE_SUFFIXES
from graft_runtime.walk import is_image

BOM_ENCODINGS = {BOM_UTF32_LE: "utf-32", BOM_UTF32_BE: "utf-32", BOM_UTF8: "utf-8-sig", BOM_UTF16_LE: "utf-16"} | {
    BOM_UTF16_BE: "utf-16"
}
WESTERN = "Windows-1252"
LEGACY = {  # what a table may be in that is not Unicode: as people call it, as Python does
    WESTERN: "cp1252",
    "GBK": "gb18030",
    "Big5": "cp950",
    "Shift-JIS": "cp932",
    "EUC-JP": "euc_jp",
    "EUC-KR": "cp949",
    "Windows-1250": "cp1250",
    "Windows-1251": "cp1251",
    "Windows-1253": "cp1253",
    "Windows-1254": "cp1254",
    "Mac Roman": "mac_roman",
    "CP437": "cp437",
    "CP850": "cp850",
    "Windows-1255": "cp1255",
    "Windows-1256": "cp1256",
    "Windows-1257": "cp1257",
    "KOI8-R": "koi8_r",
    "CP866": "cp866",
    "Windows-874": "cp874",
}
_LETTERS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŠŽšžŒœŸ"
_PUNCTUATION = "’–—°€©®«»·\xa0"
_PAIRS = ("çã", "çõ", "ää", "öö", "äö", "öä", "éé", "üü")  # coração, Töölö, créée
_SAMPLE_LENGTH = 16  # letters of a label, to show what an encoding makes of it


def decode_text(where: str, raw: bytes, count_files: Callable[[str], int] | None = None) -> tuple[str, str]:
    """Decode a table; return the text, and the encoding's common name where it is none of Unicode's.

    `count_files` returns how many of the files that a text lists exist: that decides. Without such a file only text
    that looks like a Western European language is taken for Windows-1252, because the bytes of any other language are
    valid in several encodings. Raises DataError.
    """
    if kind := _detect_unicode(raw):
        try:
            return raw.decode(kind), ""
        except UnicodeDecodeError as error:
            if not raw.startswith(tuple(BOM_ENCODINGS)):
                raise DataError(f"{where} is no text: it has bytes of 0, as files of other kinds have.") from error
            raise DataError(f"{where} is not text in {kind.upper()}, as it begins: {error.reason}.") from error
    with suppress(UnicodeDecodeError):
        return raw.decode("utf-8"), ""
    readings = dict[str, str]()
    for name, encoding in LEGACY.items():
        with suppress(UnicodeDecodeError):
            readings[name] = raw.decode(encoding)
    if count_files and (proven := _pick_by_files(readings, count_files)):
        return readings[proven], proven
    if WESTERN in readings and is_western(readings[WESTERN]):
        return readings[WESTERN], WESTERN
    some = [f"{_sample_text(text)!r} in {name}" for name, text in readings.items()]
    samples = f" It says {', '.join(some[:4])}." if some else ""
    raise DataError(
        f"{where} is not UTF-8, and nothing tells which encoding it is in.{samples} Please save it as UTF-8."
    )


def _detect_unicode(raw: bytes) -> str:
    """The Unicode encoding that a mark says, or bytes of 0, which no other text has; else ''."""
    if found := next((kind for mark, kind in BOM_ENCODINGS.items() if raw.startswith(mark)), ""):
        return found
    if b"\0" not in raw:
        return ""
    return "utf-16-le" if raw[1::2].count(0) > raw[::2].count(0) else "utf-16-be"


def _pick_by_files(readings: dict[str, str], count_files: Callable[[str], int]) -> str:
    """The encoding in which most files are there; none where no file is, or where two of them say different things."""
    counts = {name: count_files(text) for name, text in readings.items()}
    most = max(counts.values(), default=0)
    best = [name for name, count in counts.items() if count == most and most]
    return best[0] if len({readings[name] for name in best}) == 1 else ""


def is_western(text: str) -> bool:
    """Whether letters that are not ASCII stand where Western European languages have them: alone, in words of others.

    >>> is_western("file,label\\nKäse"), is_western("file,label\\nÃ¨"), is_western("êîò")
    (True, False, False)
    """
    if any(not letter.isascii() and letter not in _LETTERS + _PUNCTUATION for letter in text):
        return False
    words = [word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()]
    runs = [run for word in words for run in re.findall(r"[^\x00-\x7f]{2,}", word)]
    turned = any(re.search(r"[a-zß-ÿ][À-ÞŠŽŒŸ]", word) for word in words)  # a capital inside a word
    strange = sum(not letter.isascii() for word in words for letter in word)
    return not turned and all(run in _PAIRS for run in runs) and 2 * strange <= sum(map(len, words))


def _sample_text(text: str) -> str:
    """Some letters from the first that is not ASCII on."""
    found = re.search(r"[^\x00-\x7f][^\r\n,;\t]*", text)
    return found[0][:_SAMPLE_LENGTH] if found else ""


SEPARATORS, BAR = ",;\t", "|"
FILE_COLUMNS = (
    "file",
    "image",
    "path",
    "filename",
    "picture",
    "file_name",
    "filepath",
    "image_path",
    "img",
)  # a column's name
_ENDINGS = "|".join(map(re.escape, IMAGE_SUFFIXES))
_PATH_FIRST = re.compile(rf"(.*?(?:{_ENDINGS}))(?:\s+(.*))?", re.IGNORECASE)
_PATH_LAST = re.compile(rf"(.*?)\s+(\S+(?:{_ENDINGS}))", re.IGNORECASE)


def parse_table(where: str, text: str) -> tuple[list[str], list[list[str]]]:
    """Parse a table; return the header and the rows, without empty ones. Raises DataError.

    Excel's first line 'sep=;' names the separator; else it is the one that the first line has most of, and blanks
    where it has none. A first line that names an image is no header: then columns are called file and label.
    """
    text = text.rstrip("\x1a")  # the end of a file of DOS
    lines = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n").split("\n")
    separator = "\t" if where.lower().endswith(".tsv") else ""
    while lines and not lines[0].strip(SEPARATORS + " "):
        del lines[0]
    if lines and (directive := re.fullmatch(r'"?sep=(.)"?[,;\t ]*', lines[0], re.IGNORECASE)):
        separator = directive[1]
        del lines[0]
    while lines and lines[0].startswith("#") and not any(map(is_image, _split_line(lines[0], separator))):
        del lines[0]
    if not any(map(str.strip, lines)):
        raise DataError(f"{where} is not a table: it is empty.")
    separator = separator or _guess_separator(lines[0])
    rows = _parse_spaced(lines) if separator == " " else _parse_csv(where, "\n".join(lines), separator)
    header = _guess_header(rows) if any(map(_names_image, rows[0])) else rows.pop(0)
    return header, rows


def _guess_separator(head: str) -> str:
    """Return the most frequent separator of a first line; a bar or blanks where it has none of them."""
    found = max(SEPARATORS, key=head.count)
    if found not in head and any(map(_is_file_cell, head.split(BAR)[: head.count(BAR)])):
        return BAR  # which joins labels otherwise
    return " " if found not in head and " " in head.strip() else found


def _is_file_cell(cell: str) -> bool:
    return _names_image(cell.strip()) or cell.strip().lower() in FILE_COLUMNS


def _split_line(line: str, separator: str) -> list[str]:
    return line.split(separator or _guess_separator(line))


def _parse_csv(where: str, text: str, separator: str) -> list[list[str]]:
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where} is not a table: {error}.") from error
    return [row for row in rows if any(row)]


def _parse_spaced(lines: Sequence[str]) -> list[list[str]]:
    """Lines separated by blanks. Paths and labels may have blanks in them: a path ends where an image's name does."""
    lines = [line.strip() for line in lines if line.strip()]
    found = [_split_at_path(line) for line in lines]
    widths = {len(rest.split()) for (_, rest, _), line in zip(found, lines, strict=True) if rest != line}
    width = widths.pop() if len(widths) == 1 else 1
    if not found[0][0]:  # a header
        width = max(len(lines[0].split()) - 1, 1)
    rows = list[list[str]]()
    for path, rest, last in found:
        cells = rest.split(None, width - 1) if path else rest.split()
        rows.append(cells if not path else [*cells, path] if last else [path, *cells])
    return rows


def _split_at_path(line: str) -> tuple[str, str, bool]:
    """Return (path, the rest of the line, whether the path is the last); without a path, the whole line is the rest."""
    if (found := _PATH_FIRST.fullmatch(line)) and (found[2] is not None or not _PATH_LAST.fullmatch(line)):
        return found[1], found[2] or "", False
    if found := _PATH_LAST.fullmatch(line):
        return found[2], found[1], True
    return "", line, False


def _names_image(cell: str) -> bool:
    return is_image(cell) and "://" not in cell


def _guess_header(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names for the columns of a table without a header; others than file, label and split are called by number."""
    file = next(at for at, cell in enumerate(rows[0]) if _names_image(cell))
    names = {file: "file"}
    for at in range(len(rows[0])):
        if at != file and all(row[at].lower() in SPLIT_FOLDERS for row in rows if len(row) > at):
            names.setdefault(at, "split" if "split" not in names.values() else str(at + 1))
    rest = [at for at in range(len(rows[0])) if at not in names and not _is_row_number(rows, at)]
    rest = rest or [at for at in range(len(rows[0])) if at not in names]
    names |= {at: str(at + 1) for at in range(len(rows[0])) if at not in names and at not in rest}
    names |= {at: "label" if len(rest) == 1 else str(at + 1) for at in rest}
    return [names[at] for at in range(len(rows[0]))]


def _is_row_number(rows: Sequence[Sequence[str]], at: int) -> bool:
    """Whether a column numbers the rows, from 0 or 1 on."""
    cells = [row[at] for row in rows if len(row) > at]
    return len(cells) > 2 and any(cells == [str(first + row) for row in range(len(cells))] for first in (0, 1))


def is_list_text(text: str) -> bool:
    """Whether a text file is a list of images: one of its first lines names one."""
    return any(
        _PATH_FIRST.fullmatch(line.strip()) or _PATH_LAST.fullmatch(line.strip()) for line in text.splitlines()[:5]
    )
