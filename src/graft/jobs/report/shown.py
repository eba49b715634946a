"""The test pictures that a report shows: mistakes first, small, within a budget; the surest mistakes with heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from graft.data.dataset import Dataset, pixels
from graft.errors import UsageError
from graft.jobs.report.answers import Answers
from graft.jobs.thumbnail import thumbnail
from graft.model import pictures
from graft.model.classifier import Classifier
from graft.model.explain import drawn
from graft.networks.heat import heat
from graft.progress import Watch

SIDE, LARGE = 112, 196  # pixels along the longer side of a thumbnail, and of a mistake that is shown large
MOST = 400  # thumbnails: 3 kB each
OF_CELL, RIGHT = 12, 3  # of those with the same label and answer, wrong or right
SUREST = 12  # mistakes shown large, with what spoke for them


@dataclass(frozen=True)
class Shown:
    """Pictures as data URIs by their rows among the test pictures: `small` ones, and the `heat` maps of some."""

    small: dict[int, str] = field(default_factory=dict)
    large: dict[int, str] = field(default_factory=dict)
    heat: dict[int, str] = field(default_factory=dict)


def shown(classifier: Classifier, answers: Answers, source: Dataset, where: Mapping[int, int], watch: Watch) -> Shown:
    """Look at the pictures that are worth it; `where` has the row in `source` of each test picture that is there."""
    wanted = [row for row in chosen(answers) if row in where]
    rows = np.array([where[row] for row in wanted], np.intp)
    large = [row for row in answers.surest(SUREST) if row in where]
    small: dict[int, str] = {}
    seen: dict[int, NDArray[np.uint8]] = {}
    prepare = classifier.network.preprocess

    def look(raw: bytes | NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8]]:
        whole = pixels(raw, prepare.enough)
        return thumbnail(whole, SIDE).uri, prepare.prepare(whole)

    for picture in pictures.each(source.take(rows), look, watch):
        if picture.made:  # one that has vanished since is only not shown
            row = wanted[picture.row]
            small[row] = picture.made[0]
            if row in large:
                seen[row] = picture.made[1]
    return Shown(small, *_large(classifier, answers, seen))


def chosen(answers: Answers) -> list[int]:
    """Rows worth a thumbnail: of each pair of label and answer the surest, mistakes before what is right."""
    order = np.argsort(-answers.sure, kind="stable")
    wrong = [row for row in order.tolist() if not answers.right[row]]
    right = [row for row in order.tolist() if answers.right[row]]
    counts: dict[tuple[str, str], int] = {}
    found: list[int] = []
    for rows, most in ((wrong, OF_CELL), (right, RIGHT)):
        for row in rows:
            cell = answers.words(row)
            counts[cell] = counts.get(cell, 0) + 1
            if counts[cell] <= most:
                found.append(row)
    return found[:MOST]


def _large(
    classifier: Classifier, answers: Answers, seen: Mapping[int, NDArray[np.uint8]]
) -> tuple[dict[int, str], dict[int, str]]:
    """The surest mistakes as the network saw them, and with what spoke for the answer."""
    large: dict[int, str] = {}
    hot: dict[int, str] = {}
    for row, prepared in seen.items():
        picture = np.ascontiguousarray(prepared.transpose(1, 2, 0))
        large[row] = thumbnail(picture, LARGE).uri
        try:
            places = heat(classifier.network, torch.from_numpy(prepared)[None], [answers.blamed(row)], answers.several)
        except UsageError:  # a network without places: there is no heat map to show
            continue
        hot[row] = thumbnail(drawn(picture, places[0].numpy()), LARGE).uri
    return large, hot
