"""The manifest reads back as it was written; the journal survives any cut."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.errors import OutputError
from graft.jobs.collect import manifest
from graft.jobs.collect.manifest import COLUMNS, FAILED, FETCHED, REFUSED, ManifestRow, Outcome, OutcomeJournal

OUTCOMES = [
    Outcome("http://h/1", FETCHED, "", "http://h/1", "0123.jpg", "0123", 5, 40, 30, "2026-01-01T00:00:00+00:00"),
    Outcome("http://h/ü\n", REFUSED, "HTTP 404"),
    Outcome("http://h/3", FAILED, "timeout"),
]
# No lone surrogates: they are in no text that was decoded.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["=1+1", "'=x", "-", "@\n", '"']
)
lines = st.builds(ManifestRow, *(st.integers(0) if name in manifest.NUMBERS else texts for name in COLUMNS))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(lines, max_size=3))
def test_written_is_read(tmp_path: Path, lines: list[ManifestRow]) -> None:
    manifest.write(tmp_path, lines)
    assert manifest.read(tmp_path) == lines


def test_a_spreadsheet_runs_nothing(tmp_path: Path) -> None:
    manifest.write(tmp_path, [ManifestRow("=HYPERLINK(1)", "", "", "@cat", "", 0, 0, 0, "", "", "", REFUSED, "no URL")])
    assert "\n'=HYPERLINK(1),,,'@cat," in (tmp_path / "manifest.csv").read_text().replace("\r", "")


@pytest.mark.parametrize("content", ["", "file,label\na.jpg,cat\n", "\0\xff", ",".join(COLUMNS) + "\na,b\n"])
def test_a_file_of_somebody_else_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.csv").write_text(content, "latin-1")
    with pytest.raises(OutputError, match=r"manifest\.csv was not written by graft collect"):
        manifest.read(tmp_path)


def test_a_journal_cut_anywhere_loses_one_outcome_at_most(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with closing(OutcomeJournal(path)) as journal:
        for outcome in OUTCOMES:
            journal.add(outcome)
    whole = path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 9):
        path.write_bytes(whole[:cut])
        with closing(OutcomeJournal(path)) as journal:
            kept = sum(end < cut for end in ends)
            assert list(journal.outcomes.values()) == OUTCOMES[:kept]
            journal.add(OUTCOMES[0])
        with closing(OutcomeJournal(path)) as journal:
            assert journal.outcomes == {each.url: each for each in [*OUTCOMES[:kept], OUTCOMES[0]]}
