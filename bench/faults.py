"""Faults injected on purpose: are they found? Wrong labels, and near-duplicates of four kinds.

python bench/faults.py ../shared/data/flowers5 ../shared/data/clothing10 [--seeds 3]

5 % of the labels are replaced by another class: AUROC of the doubt by which `graft check` ranks labels. To 3 % of the
images a copy is added (in turn: JPEG of quality 60, half the size, 3 to 10 % of width and height cut off, mirrored).
Recall: copies that share a group with their original. Precision: of the pairs found with a copy in them, those of the
same original; a pair whose originals are near-duplicates themselves counts for neither. Leak: copies that are on the
other side of the split than their original.
"""

import argparse
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from graft.backbones.backbone import load_backbone
from graft.backbones.features import Features, build_probe_features
from graft.data.dataset import UNSPLIT, Dataset, decode_pixels
from graft.data.duplicates import find_similar_pairs, group_near_duplicates
from graft.data.images import InMemoryImages, Raw
from graft.data.readers.source import read_source
from graft.features.embed import Embeddings, embed
from graft.jobs.check.check import cross_check_labels
from graft.training.material import prepare_material

FLIPPED, COPIED = 0.05, 0.03
Random = np.random.Generator
Change = Callable[[Image.Image, Random], Image.Image]


def cropped(image: Image.Image, random: Random) -> Image.Image:
    """Without 3 to 10 % of its width and of its height, somewhere."""
    width, height = (round(side * (1 - random.uniform(0.03, 0.1))) for side in image.size)
    left, top = (
        int(random.integers(whole - part + 1)) for whole, part in zip(image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height))


CHANGES: dict[str, tuple[int, Change]] = {  # JPEG quality, and what is done before
    "re-encoded": (60, lambda image, _: image),
    "half size": (90, lambda image, _: image.resize((max(image.width // 2, 1), max(image.height // 2, 1)))),
    "cropped": (90, cropped),
    "mirrored": (90, lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    frozen = build_probe_features(load_backbone())
    print("| data set | seed | AUROC of wrong labels | said to be wrong | of these wrong | of the wrong found |")
    print("|---|---|---|---|---|---|")
    for folder in options.folders:
        for seed in range(options.seeds):
            print(labels(frozen, read_source(folder), folder.name, seed), flush=True)
    print(f"\n| data set | seed | copies | {' | '.join(CHANGES)} | recall | precision | natural pairs | leak |")
    print("|---" * (len(CHANGES) + 7) + "|")
    for folder in options.folders:
        for seed in range(options.seeds):
            print(copies(frozen, read_source(folder), folder.name, seed), flush=True)


def labels(frozen: Features, data: Dataset, name: str, seed: int) -> str:
    """One line of the first table."""
    random, count = np.random.default_rng(seed), len(data.classes)
    wrong = np.zeros(len(data), bool)
    wrong[random.choice(len(data), round(FLIPPED * len(data)), replace=False)] = True
    said = data.labels.copy()
    said[wrong] = (said[wrong] + random.integers(1, count, wrong.sum())) % count
    embedded = embed(frozen, data)
    groups = group_near_duplicates(embedded, embedded.digests, embedded.hashes)
    found = cross_check_labels(replace(data, labels=said), embedded, groups, frozen.widths, 0)
    assert found
    area, named = roc_auc_score(wrong, found.error_scores), wrong[found.rows]
    return f"| {name} | {seed} | **{area:.3f}** | {len(named)} | {named.mean():.0%} | {named.sum() / wrong.sum():.0%} |"


def copies(frozen: Features, data: Dataset, name: str, seed: int) -> str:
    """One line of the second table."""
    random = np.random.default_rng(seed)
    count = len(data)
    originals = random.choice(count, round(COPIED * count), replace=False)
    kinds = np.arange(len(originals)) % len(CHANGES)
    more = [
        copy(data.read(row), *list(CHANGES.values())[kind], random) for row, kind in zip(originals, kinds, strict=True)
    ]
    source = np.concatenate([np.arange(count), originals])
    whole = Dataset(
        InMemoryImages([*(data.read(row) for row in range(count)), *more]),
        data.labels[source],
        data.classes,
        np.full(len(source), UNSPLIT, np.int8),
    )
    embedded = embed(frozen, whole)
    groups = group_near_duplicates(embedded, embedded.digests, embedded.hashes)
    found = groups[count:] == groups[originals]
    natural, right, wrong = judged(embedded, source, count)
    material = prepare_material(whole, embedded, 0)
    tested = np.isin(np.arange(len(whole)), material.embeddings.rows[material.test])
    leak = int((tested[count:] != tested[originals]).sum())
    each = " | ".join(f"{found[kinds == kind].mean():.0%}" for kind in range(len(CHANGES)))
    return (
        f"| {name} | {seed} | {len(originals)} | {each} | **{found.mean():.1%}** | "
        f"**{right / max(right + wrong, 1):.1%}** ({wrong} wrong) | {natural} | {leak} |"
    )


def copy(raw: Raw, quality: int, change: Change, random: Random) -> bytes:
    """The file of a near-duplicate."""
    file = io.BytesIO()
    change(Image.fromarray(decode_pixels(raw, 0)), random).save(file, "JPEG", quality=quality)
    return file.getvalue()


def judged(embedded: Embeddings, source: np.ndarray, count: int) -> tuple[int, int, int]:
    """Pairs of near-duplicates that were there before, right pairs with a copy in them, and wrong ones."""
    pairs = np.concatenate(
        [np.column_stack([one, two]) for one, two, _ in find_similar_pairs(embedded, embedded.hashes)]
    )
    old = {tuple(pair) for pair in pairs[(pairs < count).all(axis=1)].tolist()}
    new = np.sort(source[pairs[(pairs >= count).any(axis=1)]], axis=1).tolist()
    right = sum(one == two for one, two in new)
    return len(old), right, sum(one != two and (one, two) not in old for one, two in new)


if __name__ == "__main__":
    main()
