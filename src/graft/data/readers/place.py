"""Files beside a table, on the disk or in an archive, and advice on files that are no images."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from graft.data.images import ImageFiles, Images
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.formatting import join_with_and

AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".mid")
TEXT = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".md", ".doc", ".docx")
VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp")
PDF = (".pdf",)
TEXT_COLUMNS = (
    "text",
    "texts",
    "sentence",
    "sentences",
    "review",
    "comment",
    "message",
    "document",
    "utterance",
)  # columns

OTHER_JOB = "not this program's job, which classifies images"
VIDEO_ADVICE = "extract frames of a video as images first, as with ffmpeg -i clip.mp4 -vf fps=1 frame-%05d.jpg"
PDF_ADVICE = "convert the pages of a PDF to images first, as with pdftoppm -jpeg -r 100 file.pdf page"


def describe_foreign_files(names: Iterable[str]) -> str:
    """Return a sentence about those of these files that are audio, text, video or PDF; empty where none is.

    >>> describe_foreign_files(["a.wav", "b.WAV"])
    "It holds 2 .wav files: audio is not this program's job, which classifies images."
    """
    endings = Counter(PurePosixPath(name).suffix.lower() for name in names)
    most_first = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    found = [(ending, count) for ending, count in most_first if ending in (*AUDIO, *TEXT, *VIDEO, *PDF)]
    if not found:
        return ""
    counts = [f"{count:,} {ending} file{'s' * (count != 1)}" for ending, count in found]
    return f"It holds {join_with_and(counts)}: {format_advice([ending for ending, _ in found])}."


def format_advice(endings: Iterable[str]) -> str:
    """Return advice on these kinds of files, without a full stop; empty for none of them."""
    known = set(endings)
    kinds = [name for name, kind in (("audio", AUDIO), ("text", TEXT)) if known & set(kind)]
    clauses = [f"{join_with_and(kinds)} {'are' if len(kinds) > 1 else 'is'} {OTHER_JOB}"] if kinds else []
    clauses += [clause for clause, kind in ((VIDEO_ADVICE, VIDEO), (PDF_ADVICE, PDF)) if known & set(kind)]
    return "; ".join(clauses)


def describe_text_column(header: Iterable[str]) -> str:
    """A sentence about a table that has texts in place of images; empty where no column is called so."""
    name = next((name for name in header if name.lower() in TEXT_COLUMNS), "")
    return f"Its column {name!r} seems to hold text, which is {OTHER_JOB}. " if name else ""


def normalise_name(name: str) -> str:
    """Normalise a name to NFC: each accented letter as one."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class TableFolder:
    """A folder with a table, and what lies beside it."""

    name: str  # what to call it
    has_file: Callable[[str], bool]  # whether a file is there
    list_names: Callable[[str], Iterable[str]]  # what a folder holds
    open_images: Callable[[list[str]], Images]
    read: Callable[[str], bytes]  # a file beside the table
    watch: ProgressWrapper = no_progress  # over the files that are looked for
    stored_names: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # of folders: names as stored, by composed ones

    @classmethod
    def from_folder(cls, folder: Path, watch: ProgressWrapper = no_progress) -> TableFolder:
        """A folder on the disk."""

        def names(path: str) -> list[str]:
            with suppress(OSError, ValueError):
                return os.listdir(folder / path)
            return []

        return cls(
            str(folder),
            lambda name: os.path.isfile(folder / name),  # of a name that cannot be it says no, as Path does not
            names,
            lambda names: ImageFiles.from_names(names, str(folder)),
            lambda name: (folder / name).read_bytes(),
            watch,
        )

    def find(self, name: str) -> str:
        """Return the name that a file is stored by; '' where there is none.

        The same letters can be stored in two ways (é as one letter, or as e and an accent: macOS does that), and a
        table may have the other one.
        """
        if self.has_file(name):
            return name
        if name.isascii():
            return ""
        path = "/" if name.startswith("/") else ""
        for step in filter(None, name.split("/")):
            own = step if step in (".", "..") else self._names_in(path).get(normalise_name(step), "")
            if not own:
                return ""
            path = posixpath.join(path, own)
        return path if self.has_file(path) else ""

    def _names_in(self, folder: str) -> dict[str, str]:
        if folder not in self.stored_names:
            self.stored_names[folder] = {normalise_name(name): name for name in self.list_names(folder)}
        return self.stored_names[folder]
