"""Files that are no images but audio, text, video or documents: whose job they are not, and what can be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from graft_runtime.screen import enumerated

AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".mid")
TEXT = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".md", ".doc", ".docx")
VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp")
PDF = (".pdf",)
WORDS = ("text", "texts", "sentence", "sentences", "review", "comment", "message", "document", "utterance")  # columns

OTHER_JOB = "not this program's job, which classifies images"
FRAMES = "extract frames of a video as images first, as with ffmpeg -i clip.mp4 -vf fps=1 frame-%05d.jpg"
PAGES = "convert the pages of a PDF to images first, as with pdftoppm -jpeg -r 100 file.pdf page"


def told(names: Iterable[str]) -> str:
    """One sentence about those of these files that are audio, text, video or PDF; empty where none is.

    >>> told(["a.wav", "b.WAV"])
    "It holds 2 .wav files: audio is not this program's job, which classifies images."
    """
    endings = Counter(PurePosixPath(name).suffix.lower() for name in names)
    most_first = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    found = [(ending, count) for ending, count in most_first if ending in (*AUDIO, *TEXT, *VIDEO, *PDF)]
    if not found:
        return ""
    counts = [f"{count:,} {ending} file{'s' * (count != 1)}" for ending, count in found]
    return f"It holds {enumerated(counts)}: {advice([ending for ending, _ in found])}."


def advice(endings: Iterable[str]) -> str:
    """What these kinds of files are for this program, without a full stop; empty for none of them."""
    known = set(endings)
    strange = [name for name, kind in (("audio", AUDIO), ("text", TEXT)) if known & set(kind)]
    clauses = [f"{enumerated(strange)} {'are' if len(strange) > 1 else 'is'} {OTHER_JOB}"] if strange else []
    clauses += [clause for clause, kind in ((FRAMES, VIDEO), (PAGES, PDF)) if known & set(kind)]
    return "; ".join(clauses)


def column_of_text(header: Iterable[str]) -> str:
    """A sentence about a table that has texts in place of images; empty where no column is called so."""
    name = next((name for name in header if name.lower() in WORDS), "")
    return f"Its column {name!r} seems to hold text, which is {OTHER_JOB}. " if name else ""
