"""HTML page of `graft check`: the images of each finding in one self-contained file; a few of them in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

from graft.data.dataset import SPLITS, Dataset
from graft.data.quality import Finding, format_count
from graft.jobs import outputs
from graft.training.material import format_labels
from graft_runtime import display

SIGNATURE = "<!doctype html>\n<!-- graft check -->"
MAX_CASES = 24  # cases of one finding: a page stays below some 10 MB
SIDE = 168  # pixels of a thumbnail's longer side; screens of double density show it at half the size
MAX_SHOWN_FINDINGS, MAX_SHOWN_CASES = 8, 3  # in a notebook; the page has more
MAX_BARS = 40  # classes whose counts are drawn

_HEAD = f"""{SIGNATURE}
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""


def check(path: Path, *, force: bool) -> None:
    """Check that `write` may write there, before any work is done. Raises OutputError."""
    outputs.check_output(path, outputs.build_prefix_check(SIGNATURE), force=force)


def write(page: str, path: Path, *, force: bool = False) -> None:
    """Save the page. Raises OutputError for a file that exists or, with `force`, one that graft did not write."""
    check(path, force=force)
    outputs.write(path, page.encode())


def render_page(data: Dataset, findings: Sequence[Finding], report: Mapping[str, Any]) -> str:
    """Return the page as HTML; `report` is CheckReport.as_dict()."""
    title = escape(f"What graft check found in {report['source'] or 'the images'}")
    album = _ThumbnailGallery(data)
    parts = [_HEAD, f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>"]
    parts += [_summary(report), "</header>\n<main>", _contents(findings)]
    parts += [_section(number, finding, album) for number, finding in enumerate(findings)]
    parts += [_classes(report["classes"]), "</main>\n</body>\n</html>\n"]
    return "\n".join(parts)


class _ThumbnailGallery:
    """Thumbnails of a data set, each rendered once."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.labels = data, format_labels(data)
        self.image = cache(self._render_image)

    def render_figure(self, row: int) -> str:
        """Return the image with its name, label and split as HTML."""
        name, label = escape(self.data.name(row)), escape(self.labels[row])
        part = SPLITS[self.data.split[row]]
        about = f"<b>{label}</b>{f' <i>{part}</i>' if part else ''}"
        return f"<figure>{self.image(row)}<figcaption>{about}<span>{name}</span></figcaption></figure>"

    def _render_image(self, row: int) -> str:
        small = self.data.thumbnail(row, SIDE)
        if small is None:  # the finding itself says why
            return '<div class="none" role="img" aria-label="cannot be shown">?</div>'
        size = f'width="{small.width}" height="{small.height}"'
        alt = escape(f"{self.labels[row]}: {self.data.name(row)}", quote=True)
        return f'<img {size} alt="{alt}" src="{small.uri}">'


def _summary(report: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{count:,} {name}" for name, count in report["parts"].items() if name != "undecided")
    text = f"{report['images']:,} images of {len(report['classes'])} classes{f' ({parts})' if parts else ''}"
    return f"<p>{text}; {report['usable']:,} can be used. Nothing was changed.</p>"


def _contents(findings: Sequence[Finding]) -> str:
    if not findings:
        return '<p class="good">Nothing found.</p>'
    lines = [
        f'<li class="{finding.severity}"><span class="tag">{finding.severity}</span> '
        f'<a href="#f{number}">{escape(finding.says)}</a></li>'
        for number, finding in enumerate(findings)
    ]
    return f'<nav aria-label="Findings"><ul>{"".join(lines)}</ul></nav>'


def _section(number: int, finding: Finding, album: _ThumbnailGallery) -> str:
    cases = "".join(_cases(finding, album))
    more = len(finding.cases) - MAX_CASES
    rest = f"<p>and {more:,} more: <code>graft check --json</code> names them.</p>" if more > 0 else ""
    return (
        f'<section id="f{number}" aria-labelledby="h{number}" class="{finding.severity}">\n'
        f'<h2 id="h{number}"><span class="tag">{finding.severity}</span> {escape(finding.says)}</h2>\n'
        f"<p>{escape(finding.advice)}</p>\n{f'<ul class=cases>{cases}</ul>' if cases else ''}\n{rest}</section>"
    )


def _cases(finding: Finding, album: _ThumbnailGallery) -> Iterator[str]:
    for at, rows in enumerate(finding.cases[:MAX_CASES].tolist()):
        figures = "".join(album.render_figure(row) for row in rows)
        note = f"<p>{escape(finding.notes[at])}</p>" if finding.notes and finding.notes[at] else ""
        yield f'<li class="{"pair" if len(rows) > 1 else "one"}"><div>{figures}</div>{note}</li>\n'


def _classes(counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=0) or 1
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{count:,}</td>'
        f'<td aria-hidden="true"><div class="bar" style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for name, count in sorted(counts.items(), key=lambda item: -item[1])[:MAX_BARS]
    ]
    rest = f"<p>and {len(counts) - MAX_BARS:,} smaller ones.</p>" if len(counts) > MAX_BARS else ""
    table = f"<table>{''.join(rows)}</table>{rest}"
    return f'<section aria-labelledby="classes"><h2 id="classes">Classes</h2>{table}</section>'


# --- in a notebook ----------------------------------------------------------------------------------------------------


def render_preview(data: Dataset, findings: Sequence[Finding]) -> str:
    """Return the first findings with a few images of each, as HTML for a notebook."""
    title = f"{format_count(len(findings), 'finding')} in {len(data):,} images"
    more = len(findings) - MAX_SHOWN_FINDINGS
    return display.block(
        title if findings else f"Nothing found in {len(data):,} images",
        display.note(data.root),
        *(_preview_finding(data, finding) for finding in findings[:MAX_SHOWN_FINDINGS]),
        display.note(f"and {format_count(more, 'finding')} more: write('check.html') shows them" if more > 0 else ""),
    )


def _preview_finding(data: Dataset, finding: Finding) -> str:
    cases = finding.cases[:MAX_SHOWN_CASES].tolist()
    figures = []
    for at, rows in enumerate(cases):
        detail = finding.notes[at] if finding.notes else ""
        for row in rows:
            name = data.name(row)
            caption = f"{display.escape_text(name)}<br>{display.escape_text(detail)}"
            figures.append(display.figure(data.thumbnail(row, display.SIDE), name, caption))
    says = f"<b>{finding.severity}</b> {display.escape_text(finding.says)}"
    return f'<div style="margin-top:.6em">{says}</div>{display.note(finding.advice)}{display.side_by_side(*figures)}'


CSS: Final = """
:root { --paper: #fbfbf9; --card: #fff; --ink: #1d211f; --soft: #5d6662; --line: #dfe3e0; --leaf: #2e7d4f;
  --error: #b3261e; --warning: #8a5a00; --note: #35618e; }
@media (prefers-color-scheme: dark) { :root { --paper: #141715; --card: #1d211f; --ink: #e8ebe9; --soft: #a2aca7;
  --line: #343b37; --leaf: #6cc48f; --error: #ff8a80; --warning: #f0b95a; --note: #8fbbe8; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 78rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; line-height: 1.35; margin: 0 0 .25rem; overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; color: var(--soft); max-width: 46rem; }
a { color: inherit; text-underline-offset: .2em; }
a:focus-visible { outline: 3px solid var(--leaf); outline-offset: 3px; border-radius: 2px; }
nav ul, ul.cases { list-style: none; margin: 0; padding: 0; }
nav { margin: 1.5rem 0 2.5rem; }
nav li { padding: .35rem 0 .35rem .8rem; border-left: .3rem solid var(--tone); margin-bottom: .3rem; }
.error { --tone: var(--error); } .warning { --tone: var(--warning); } .note { --tone: var(--note); }
section { border-top: 1px solid var(--line); padding: 1.5rem 0; }
.tag { color: var(--tone); font-size: .8rem; font-weight: 700; letter-spacing: .04em; text-transform: uppercase;
  margin-right: .4rem; }
nav .tag { display: inline-block; min-width: 5.2rem; }
@media (max-width: 40rem) { nav .tag { display: block; } }
ul.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; }
ul.cases:has(.pair) { grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
ul.cases > li { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem; }
li > div { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: .6rem; }
li > p { margin: .4rem 0 0; font-size: .85rem; color: var(--tone); }
figure { margin: 0; min-width: 0; }
img, .none { display: block; width: 100%; height: 8.5rem; object-fit: contain; background: var(--paper);
  border-radius: .3rem; }
.none { display: grid; place-items: center; color: var(--soft); font-size: 2rem; }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .4rem; }
figcaption b { overflow-wrap: anywhere; } figcaption i { color: var(--soft); }
figcaption span { display: block; color: var(--soft); font-size: .78rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; max-width: 46rem; font-size: .9rem; }
th { text-align: left; font-weight: 500; padding: .2rem .8rem .2rem 0; overflow-wrap: anywhere; max-width: 16rem; }
td { text-align: right; padding: .2rem .8rem .2rem 0; font-variant-numeric: tabular-nums; }
td:last-child { width: 55%; padding-right: 0; }
.bar { background: var(--leaf); height: .7rem; border-radius: .2rem; min-width: 2px; }
.good { color: var(--leaf); font-size: 1.1rem; }
"""
