"""Lists as crawlers leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.errors import DataError, UsageError
from graft.jobs.collect.collect import UrlRow, read_rows


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table(tmp_path: Path) -> None:
    path = written(
        tmp_path / "urls.csv", "Label,URL,Licence,Page\ncat,http://h/1,CC0,http://h/\n,http://h/2,,\nDog,,,\n"
    )
    assert read_rows(path) == [
        UrlRow("http://h/1", "cat", "http://h/", "CC0"),
        UrlRow("http://h/2", ""),
        UrlRow("", "Dog"),
    ]
    assert [row.fault for row in read_rows(path)] == ["", "no label", "no URL"]


def test_tabs_marks_and_accents(tmp_path: Path) -> None:
    path = written(tmp_path / "urls.tsv", "image_url\tclass\nhttp://h/a,b\tcafe\u0301\n", "utf-16")
    assert read_rows(path) == [UrlRow("http://h/a,b", "caf\u00e9")]


def test_a_list_of_one_label(tmp_path: Path) -> None:
    path = written(tmp_path / "urls.txt", "# cats\nhttp://h/1\n\n  http://h/2#x \r\n", "utf-8-sig")
    assert read_rows(path, "cat") == [UrlRow("http://h/1", "cat"), UrlRow("http://h/2#x", "cat")]
    table = written(tmp_path / "urls.csv", "url,n\nhttp://h/1,1\n")
    assert read_rows(table, "cat") == [UrlRow("http://h/1", "cat")]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--label NAME"):
        read_rows(written(tmp_path / "urls.txt", "http://h/1\n"))
    with pytest.raises(DataError, match="lists no URL"):
        read_rows(written(tmp_path / "none.txt", "# nothing\n"), "cat")
    with pytest.raises(UsageError, match="a column of labels; --label is for lists without"):
        read_rows(written(tmp_path / "urls.csv", "url,label\nhttp://h/1,dog\n"), "cat")
    with pytest.raises(DataError, match=r"no column called label, .* Its columns are 'url', 'kind'"):
        read_rows(written(tmp_path / "kind.csv", "url,kind\nhttp://h/1,dog\n"))
    with pytest.raises(DataError, match="no column called url"):
        read_rows(written(tmp_path / "place.csv", "place,label\nhttp://h/1,dog\n"))
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "absent.csv")
