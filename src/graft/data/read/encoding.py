"""Which encoding the bytes of a table are in: by its mark, by being valid, by the files that then exist."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Callable
from contextlib import suppress

from graft.errors import DataError

MARKS = {BOM_UTF32_LE: "utf-32", BOM_UTF32_BE: "utf-32", BOM_UTF8: "utf-8-sig", BOM_UTF16_LE: "utf-16"} | {
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
_SIGNS = "’–—°€©®«»·\xa0"
_PAIRS = ("çã", "çõ", "ää", "öö", "äö", "öä", "éé", "üü")  # coração, Töölö, créée
_SAMPLE = 16  # letters of a label, to show what an encoding makes of it


def decoded(where: str, raw: bytes, proof: Callable[[str], int] | None = None) -> tuple[str, str]:
    """The text, and the encoding where it is none of Unicode's, as people call it.

    `proof` says of a text how many of the files that it lists are there: that decides. Without such a file only text
    that looks like a Western European language is taken for Windows-1252, because the bytes of any other language are
    valid in several encodings. Raises DataError.
    """
    if kind := _unicode(raw):
        try:
            return raw.decode(kind), ""
        except UnicodeDecodeError as error:
            if not raw.startswith(tuple(MARKS)):
                raise DataError(f"{where} is no text: it has bytes of 0, as files of other kinds have.") from error
            raise DataError(f"{where} is not text in {kind.upper()}, as it begins: {error.reason}.") from error
    with suppress(UnicodeDecodeError):
        return raw.decode("utf-8"), ""
    readings = dict[str, str]()
    for name, encoding in LEGACY.items():
        with suppress(UnicodeDecodeError):
            readings[name] = raw.decode(encoding)
    if proof and (proven := _proven(readings, proof)):
        return readings[proven], proven
    if WESTERN in readings and is_western(readings[WESTERN]):
        return readings[WESTERN], WESTERN
    some = [f"{_sample(text)!r} in {name}" for name, text in readings.items()]
    said = f" It says {', '.join(some[:4])}." if some else ""
    raise DataError(f"{where} is not UTF-8, and nothing tells which encoding it is in.{said} Please save it as UTF-8.")


def _unicode(raw: bytes) -> str:
    """The Unicode encoding that a mark says, or bytes of 0, which no other text has; else ''."""
    if found := next((kind for mark, kind in MARKS.items() if raw.startswith(mark)), ""):
        return found
    if b"\0" not in raw:
        return ""
    return "utf-16-le" if raw[1::2].count(0) > raw[::2].count(0) else "utf-16-be"


def _proven(readings: dict[str, str], proof: Callable[[str], int]) -> str:
    """The encoding in which most files are there; none where no file is, or where two of them say different things."""
    counts = {name: proof(text) for name, text in readings.items()}
    most = max(counts.values(), default=0)
    best = [name for name, count in counts.items() if count == most and most]
    return best[0] if len({readings[name] for name in best}) == 1 else ""


def is_western(text: str) -> bool:
    """Whether letters that are not ASCII stand where Western European languages have them: alone, in words of others.

    >>> is_western("file,label\\nKäse"), is_western("file,label\\nÃ¨"), is_western("êîò")
    (True, False, False)
    """
    if any(not letter.isascii() and letter not in _LETTERS + _SIGNS for letter in text):
        return False
    words = [word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()]
    runs = [run for word in words for run in re.findall(r"[^\x00-\x7f]{2,}", word)]
    turned = any(re.search(r"[a-zß-ÿ][À-ÞŠŽŒŸ]", word) for word in words)  # a capital inside a word
    strange = sum(not letter.isascii() for word in words for letter in word)
    return not turned and all(run in _PAIRS for run in runs) and 2 * strange <= sum(map(len, words))


def _sample(text: str) -> str:
    """Some letters from the first that is not ASCII on."""
    found = re.search(r"[^\x00-\x7f][^\r\n,;\t]*", text)
    return found[0][:_SAMPLE] if found else ""
