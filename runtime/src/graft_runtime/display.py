"""Building blocks of the HTML by which results show themselves in notebooks: inline styles, no script.

The colours are those of the page, light or dark, and two that can be read on both. Names of files and classes are
untrusted: each goes through `escape_text`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence

from graft_runtime import image
from graft_runtime.terminal import escape_breaks
from graft_runtime.thumbnail import Thumbnail, make_thumbnail

SIDE = 160  # pixels of a thumbnail's longer side; it is shown at up to 120
MAX_CHARS = 80  # of a name; of a longer one both ends are shown
HIT, MISS = "#2f9e6b", "#d65a4a"  # contrast of at least 3:1 on white and on black
SOFT = "opacity:.75"  # of words that explain
LEFT = "text-align:left;vertical-align:middle;border:0;padding:.1em .8em .1em 0;"
RIGHT = LEFT.replace("left", "right", 1) + "font-variant-numeric:tabular-nums;"
MISSING = "–"


def escape_text(value: object) -> str:
    """Return any text escaped for HTML and attributes, on one line and of at most MAX_CHARS characters."""
    text = str(value)
    if len(text) > MAX_CHARS:
        text = f"{text[: MAX_CHARS // 2]}…{text[-MAX_CHARS // 2 :]}"
    return _escape(text)


def _escape(text: str) -> str:
    return html.escape(escape_breaks(text.encode("utf-8", "backslashreplace").decode()))


def format_percent(share: float | None) -> str:
    """Return a share as a percentage; a dash for None."""
    return MISSING if share is None else f"{share:.1%}"


def block(title: str, *parts: str) -> str:
    """Return a whole result: its title, which is plain text, and HTML below it."""
    head = f'<div style="font-size:1.15em;font-weight:600;overflow-wrap:anywhere">{_escape(title)}</div>'
    return f'<div style="max-width:46rem;color:inherit;line-height:1.45">{head}{"".join(parts)}</div>'


def note(text: str) -> str:
    """Return a sentence in plain text as a line of HTML."""
    return f'<div style="{SOFT};overflow-wrap:anywhere">{_escape(text)}</div>' if text else ""


def code(*lines: str) -> str:
    """Return lines of Python as HTML."""
    text = "\n".join(map(_escape, lines))
    return f'<pre style="background:transparent;color:inherit;margin:.4em 0 0;white-space:pre-wrap">{text}</pre>'


# --- numbers ----------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are HTML, the first of each row is its header and stands on the left."""
    above = "".join(
        f'<th scope="col" style="{RIGHT if at else LEFT}font-weight:400;{SOFT}">{_escape(name)}</th>'
        for at, name in enumerate(header)
    )
    body = "".join(f'<tr style="background:transparent">{"".join(_cells(row))}</tr>' for row in rows)
    head = f"<thead><tr>{above}</tr></thead>" if header else ""
    inner = f'<table style="border-collapse:collapse;border:0;margin:.4em 0">{head}<tbody>{body}</tbody></table>'
    return f'<div style="overflow-x:auto">{inner}</div>'


def _cells(row: Sequence[str]) -> Iterable[str]:
    wide = "overflow-wrap:anywhere;min-width:6em;max-width:20em"
    yield f'<th scope="row" style="{LEFT}font-weight:400;{wide}">{row[0]}</th>'
    yield from (f'<td style="{RIGHT}">{cell}</td>' for cell in row[1:])


def bars(values: Mapping[str, float], texts: Sequence[str], most: float = 1.0) -> str:
    """Return a table of names, each with a bar of its value and a text; the longest bar stands for `most`."""
    rows = []
    for (name, value), text in zip(values.items(), texts, strict=True):
        width = max(0.0, min(100.0, 100 * value / (most or 1.0)))
        bar = f'<div style="width:{width:.1f}%;min-width:2px;height:.7em;border-radius:2px;background:{HIT}"></div>'
        rows.append((escape_text(name), f'<div style="width:9em">{bar}</div>', _escape(text)))
    return table((), rows)


def draw_interval(value: float, low: float, high: float, chance: float | None = None) -> str:
    """Draw a score between 0 and 1 with its interval as SVG; `chance` is that of always predicting one class.

    A page may style the classes `track`, `range`, `value` and `guess`; without any style they take the page's colour.
    """
    guess = (
        "" if chance is None else f'<rect class="guess" x="{1000 * chance - 1.5:.1f}" y="12" width="3" height="20"/>'
    )
    return (
        '<svg class="interval" viewBox="0 0 1000 44" preserveAspectRatio="none" width="100%" height="24" '
        'fill="currentColor" aria-hidden="true">'
        '<rect class="track" x="0" y="16" width="1000" height="12" rx="6" fill-opacity=".15"/>'
        f'<rect class="range" x="{1000 * low:.1f}" y="16" width="{1000 * (high - low):.1f}" height="12" fill="{HIT}" '
        f'fill-opacity=".5"/>{guess}'
        f'<rect class="value" x="{1000 * value - 2:.1f}" y="8" width="4" height="28" fill="{HIT}"/></svg>'
    )


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix as a table: rows are true classes, columns predicted ones, tinted by their share."""
    turned = "writing-mode:vertical-rl;transform:rotate(180deg);max-height:9em;margin:auto"
    beside = "max-width:11em;margin-left:auto"
    above = f"{LEFT}padding:.2em;vertical-align:bottom;font-weight:400"
    head = "".join(f'<th scope="col" style="{above}">{_one_line(name, turned)}</th>' for name in names)
    body = []
    for at, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row)
        cells = "".join(_confusion_cell(count, total, at == place) for place, count in enumerate(row))
        own = f'<th scope="row" style="{RIGHT}font-weight:400">{_one_line(name, beside)}</th>'
        body.append(f'<tr style="background:transparent">{own}{cells}</tr>')
    corner = f'<td style="{RIGHT}vertical-align:bottom;white-space:nowrap;{SOFT}">true ↓ predicted →</td>'
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:.4em 0">'
        f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _one_line(name: str, style: str) -> str:
    """Return a name that does not wrap: what finds no room is cut off, and shown under the mouse."""
    text = escape_text(name)
    cut = "white-space:nowrap;overflow:hidden;text-overflow:ellipsis"
    return f'<div title="{text}" style="{cut};{style}">{text}</div>'


def _confusion_cell(count: int, total: int, right: bool) -> str:
    tint = round(45 * count / total) if total else 0
    if count and not right:
        tint = min(50, max(10, 2 * tint))  # mistakes are few: they must be seen all the same
    ground = f"background:color-mix(in srgb,{HIT if right else MISS} {tint}%,transparent);" if tint else ""
    text = f"{count:,}" if count else '<span style="opacity:.4">·</span>'
    return (
        f'<td style="{ground}text-align:center;min-width:2.2em;padding:.25em;border:0;'
        f'font-variant-numeric:tabular-nums">{text}</td>'
    )


# --- images -----------------------------------------------------------------------------------------------------------


def read_thumbnail(path: str | os.PathLike[str], side: int = SIDE) -> Thumbnail | None:
    """Return the thumbnail of an image file; None where there is none that can be decoded."""
    try:
        return make_thumbnail(image.decode(image.read(path), enough=side), side)
    except (OSError, image.ImageError):
        return None


def figure(small: Thumbnail | None, alt: str, caption: str = "") -> str:
    """Return an image with its caption, which is HTML; a frame with a question mark in place of one that is None."""
    if small:
        width = 120 * small.width // max(small.width, small.height)
        shown = (
            f'<img src="{small.uri}" alt="{escape_text(alt)}" '
            f'style="width:{max(width, 1)}px;max-width:100%;height:auto;border-radius:4px;margin:0">'
        )
    else:
        shown = (
            f'<div role="img" aria-label="{escape_text(alt)}: cannot be shown" style="width:100px;height:75px;'
            'border:1px dashed currentColor;border-radius:4px;opacity:.5;text-align:center;line-height:75px">?</div>'
        )
    below = f'<figcaption style="overflow-wrap:anywhere;font-size:.85em">{caption}</figcaption>' if caption else ""
    return f'<figure style="margin:0;width:120px">{shown}{below}</figure>'


def embedded_image(uri: str | None) -> str:
    """Return an image that a data URI holds, small; empty for any other address, which would be fetched."""
    if not uri or not uri.startswith("data:image/jpeg;base64,"):
        return ""
    return f'<img src="{html.escape(uri)}" alt="" style="height:48px;width:auto;border-radius:4px;margin:0">'


def side_by_side(*parts: str) -> str:
    """Lay parts side by side; those that find no room go on the next line."""
    inner = "".join(filter(None, parts))
    return f'<div style="display:flex;flex-wrap:wrap;gap:.8em;align-items:flex-start;margin:.4em 0">{inner}</div>'
