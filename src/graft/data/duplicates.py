"""Near-duplicates: exact copies, re-encoded copies, frames of one burst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, Labels
from graft.data.image_stats import BITS, hamming_distances, mirror_hashes
from graft.data.quality import Finding, format_count, single_cases
from graft.progress import ProgressWrapper, no_progress

DUPLICATE_COSINE = 0.85  # cosine between standardised features; bench/README.md has the table behind it
# Where the hashes agree a smaller cosine does, and more of it is asked for with each bit that differs.
AGREEING_COSINE, COSINE_PER_BIT = 0.5, 0.03
# Bits that may differ where hashes decide, alone or with features of so little in common.
MAX_HASH_BITS, MIN_COSINE = 4, 0.1
STRICT_COSINE = 0.95  # the cosine asked for where hashes disagree, in a set whose images are alike by nature
NEIGHBOURS, SAMPLE_SIZE = 20, 512  # how alike a set's images are by nature: by the 20th nearest of so many of them
TYPICAL_BITS = 22.0  # bits by which the hashes of photos and their 20th nearest differ: further is no evidence
# Share of images with a partner above DUPLICATE_COSINE of another hash, from which on they are alike by nature.
LOOKALIKE_SHARE = 0.02
BLOCK = 2048
SKETCH_DIM = (
    512  # wider features are projected to so many dimensions: a cosine near DUPLICATE_COSINE then errs by 0.012
)


@runtime_checkable
class FeatureRows(Protocol):
    """Features [n, d] that need not be in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.integer], /) -> NDArray[np.float32]: ...


Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.floating]]  # one, other, the cosine between them


def group_near_duplicates(
    features: FeatureRows,
    digests: NDArray[np.uint8],
    hashes: NDArray[np.uint64] | None = None,
    watch: ProgressWrapper = no_progress,
) -> NDArray[np.int64]:
    """Return a group number [n] for each image; copies and near-duplicates (see `find_similar_pairs`) share one."""
    groups = first_copies(digests)
    for one, two, _ in watch(find_similar_pairs(features, hashes), "near-duplicates", count_pair_blocks(len(features))):
        groups = merge_groups(groups, one, two)
    return renumber_groups(groups)


def count_pair_blocks(count: int) -> int:
    """Return how many times `find_similar_pairs` yields pairs for so many images."""
    each = -(-count // BLOCK)
    return each * (each + 1) // 2


def find_similar_pairs(features: FeatureRows, hashes: NDArray[np.uint64] | None = None) -> Iterator[Pairs]:
    """Yield all pairs of near-duplicates, block by block: their feature cosine is above DUPLICATE_COSINE, or less where
    their perceptual hashes, of which one may be the mirror image's, are near.

    Features are standardised first, so that the cosine compares what makes an image special in this set. Where images
    of a set are similar anyway, as steel, cells or panels are, the threshold is higher: see `BaseSimilarity`. All pairs
    are compared, block by block, in a random projection (Johnson and Lindenstrauss 1984): 50,000 images take 1.3 TFLOP.
    """
    rows = _normalise_rows(project_features(features))
    limits = (
        None
        if hashes is None
        else measure_base_similarity(rows, hashes).cosine_thresholds(np.arange(BITS + 1)).astype(np.float32)
    )
    for start in range(0, len(rows), BLOCK):
        for other in range(start, len(rows), BLOCK):
            cosines = rows[start : start + BLOCK] @ rows[other : other + BLOCK].T
            near = cosines > (DUPLICATE_COSINE if limits is None else MIN_COSINE)
            one, two = np.nonzero(np.triu(near, 1) if other == start else near)
            cosine, one, two = cosines[one, two], one + start, two + other
            if limits is not None and hashes is not None:
                keep = cosine > limits[hamming_distances(hashes[one], hashes[two])]
                one, two, cosine = one[keep], two[keep], cosine[keep]
            yield one, two, cosine


@dataclass(frozen=True)
class BaseSimilarity:
    """How similar the images of a set are without being near-duplicates.

    `bits` by which hashes differ, and `cosine` of features, between an image and its 20th nearest, in the median; and
    whether many have lookalikes: a partner above DUPLICATE_COSINE with an unrelated hash, which is no
    near-duplicate's.
    """

    bits: float
    cosine: float
    has_lookalikes: bool

    def cosine_thresholds(self, differing: NDArray[np.integer]) -> NDArray[np.floating]:
        """Return the cosine from which on pairs are near-duplicates, by the Hamming distance of their hashes."""
        threshold = min(max(DUPLICATE_COSINE, (1 + self.cosine) / 2), STRICT_COSINE)  # half as far as the 20th nearest
        if self.bits <= 2 * MAX_HASH_BITS:  # that hashes agree says nothing here
            return np.full(len(differing), STRICT_COSINE if self.has_lookalikes else threshold)
        bits = differing * (TYPICAL_BITS / min(self.bits, TYPICAL_BITS))  # as many as in a set of photos
        near = np.where(
            bits <= MAX_HASH_BITS, MIN_COSINE, np.minimum(threshold, AGREEING_COSINE + COSINE_PER_BIT * bits)
        )
        return np.where(differing <= self.bits, near, STRICT_COSINE if self.has_lookalikes else threshold)


def measure_base_similarity(rows: NDArray[np.floating], hashes: NDArray[np.uint64]) -> BaseSimilarity:
    """Measure the base similarity from features [n, d] of length 1 and hashes [n]; in a small set by its half."""
    nth = min(NEIGHBOURS, len(rows) // 2)
    if nth < 2:
        return BaseSimilarity(TYPICAL_BITS, 0.0, has_lookalikes=False)
    sample = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE_SIZE, len(rows))).astype(int))
    cosines = rows[sample] @ rows.T
    bits = hamming_distances(hashes[sample, None], hashes[None]).astype(np.int16)
    diagonal = (np.arange(len(sample)), sample)
    cosines[diagonal], bits[diagonal] = -1, BITS
    median_bits = float(np.median(np.partition(bits, nth - 1, axis=1)[:, nth - 1]))
    median_cosine = float(np.median(np.partition(cosines, -nth, axis=1)[:, -nth]))
    share = ((cosines > DUPLICATE_COSINE) & (bits > median_bits)).any(axis=1).mean()
    return BaseSimilarity(max(median_bits, 1.0), median_cosine, bool(share > LOOKALIKE_SHARE))


def find_similar_hashes(hashes: NDArray[np.uint64]) -> Iterator[Pairs]:
    """Yield all pairs of nearly equal hashes, for images without features; the share of equal bits is the cosine."""
    for start in range(0, len(hashes), BLOCK):
        for other in range(start, len(hashes), BLOCK):
            bits = hamming_distances(hashes[start : start + BLOCK, None], hashes[None, other : other + BLOCK])
            one, two = np.nonzero(np.triu(bits <= MAX_HASH_BITS, 1) if other == start else bits <= MAX_HASH_BITS)
            yield one + start, two + other, 1 - bits[one, two] / BITS


def project_features(features: FeatureRows) -> NDArray[np.floating]:
    """Project standardised features to [n, SKETCH_DIM]; angles and ratios of distances stay about the same."""
    mean, spread = mean_and_std(features)
    projection = _projection(len(mean))
    return np.concatenate([np.matmul((block - mean) / spread, projection) for _, block in iterate_blocks(features)])


def renumber_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber groups to 0, 1, 2 and so on."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def join_user_groups(groups: NDArray[np.int64], others: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Join groups with the user's own: images that share a group in either share one in the result."""
    if others is None:
        return groups
    own = np.where(others < 0, others.max(initial=0) + 1 + np.arange(len(others)), others)
    own = np.unique(own, return_inverse=True)[1] + groups.max(initial=0) + 1
    size = int(own.max(initial=0)) + 1
    return renumber_groups(_connected_components(groups, own, size)[groups])


def iterate_blocks(features: FeatureRows, size: int = BLOCK) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield (rows, features of these rows) block by block, for tables larger than memory."""
    for start in range(0, len(features), size):
        rows = np.arange(start, min(start + size, len(features)))
        yield rows, features[rows]


def mean_and_std(features: FeatureRows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of each feature, [d] each; 1 for a constant feature."""
    total, squares = np.zeros(1), np.zeros(1)
    for _, block in iterate_blocks(features):
        wide = block.astype(np.float64)
        total, squares = total + wide.sum(axis=0), squares + (wide * wide).sum(axis=0)
    mean = total / len(features)
    variance = np.maximum(squares / len(features) - mean * mean, 0)
    spread = np.sqrt(np.where(variance > 1e-10 * np.maximum(mean * mean, 1e-20), variance, 1))
    return mean.astype(np.float32), spread.astype(np.float32)


def _normalise_rows(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _projection(width: int) -> NDArray[np.float32]:
    if width <= SKETCH_DIM:
        return np.eye(width, dtype=np.float32)
    return np.random.default_rng(0).standard_normal((width, SKETCH_DIM), np.float32)


def first_copies(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return for each row the first row of the same content."""
    _, first, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return first[same.ravel()].astype(np.int64)


def merge_groups(groups: NDArray[np.int64], one: NDArray[np.intp], two: NDArray[np.intp]) -> NDArray[np.int64]:
    """Merge the groups that a pair connects; a group is named by one of its rows."""
    different = groups[one] != groups[two]
    if not different.any():
        return groups
    left, right = groups[one[different]], groups[two[different]]
    found = _connected_components(left, right, len(groups))
    _, first = np.unique(found, return_index=True)
    return first[found[groups]].astype(np.int64)


def _connected_components(one: NDArray[np.int64], two: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the connected component of each node, given the edges."""
    from scipy.sparse import coo_array  # here, because it takes half a second to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), bool), (one, two)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


NO_PARTNER = -1
PLACEHOLDER_COUNT = 3  # times the same content: two may be an accident of collecting


@dataclass(frozen=True)
class NearDuplicates:
    """Columns [n]: `groups` as `group_near_duplicates` has them, the row of the `first_copies`, and rows or NO_PARTNER.

    `nearest` is the most similar near-duplicate whose content differs, `conflicting` the one with another
    label, `leaking` the one in another part of the user's own split.
    """

    groups: NDArray[np.int64]
    first_copies: NDArray[np.int64]
    nearest: NDArray[np.intp]
    conflicting: NDArray[np.intp]
    leaking: NDArray[np.intp]

    @property
    def is_copy(self) -> NDArray[np.bool_]:
        """Which images have the content of one before them."""
        return self.first_copies != np.arange(len(self.first_copies))


def find_near_duplicates(
    features: FeatureRows | None,
    digests: NDArray[np.uint8],
    hashes: NDArray[np.uint64] | None,
    labels: Labels,
    parts: NDArray[np.int8],
    watch: ProgressWrapper = no_progress,
) -> NearDuplicates:
    """Compare all pairs, by hashes alone if there are no features; memory grows with the images, not the pairs."""
    first = first_copies(digests)
    groups = first
    nearest, disputed, crossing = (_NearestPartners(len(first)) for _ in range(3))
    for one, two, cosine in watch(_similar_pairs(features, hashes), "near-duplicates", count_pair_blocks(len(first))):
        groups = merge_groups(groups, one, two)
        pairs = (one, two, cosine)
        nearest.update(pairs, first[one] != first[two])
        disputed.update(pairs, np.logical_or.reduce(np.atleast_2d((labels[one] != labels[two]).T)))
        crossing.update(pairs, parts[one] != parts[two])
    return NearDuplicates(renumber_groups(groups), first, nearest.row, disputed.row, crossing.row)


def _similar_pairs(features: FeatureRows | None, hashes: NDArray[np.uint64] | None) -> Iterator[Pairs]:
    if features is not None:
        return find_similar_pairs(features, hashes)
    return find_similar_hashes(hashes) if hashes is not None else iter(())


class _NearestPartners:
    """The partner of each image with the highest cosine so far."""

    def __init__(self, count: int) -> None:
        self.row = np.full(count, NO_PARTNER, np.intp)
        self._cosine = np.full(count, -np.inf)

    def update(self, pairs: Pairs, mask: NDArray[np.bool_]) -> None:
        """Update with the pairs in `mask`, in both directions; of equals the first image is the partner."""
        one, two, cosine = (np.asarray(column)[mask] for column in pairs)
        mine, other, cosine = np.r_[one, two], np.r_[two, one], np.r_[cosine, cosine]
        order = np.lexsort((-other, cosine))  # of several values for one place the last stays
        order = order[cosine[order] > self._cosine[mine[order]]]
        self.row[mine[order]] = other[order]
        self._cosine[mine[order]] = cosine[order]


def partner_pairs(partner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return rows and partners as pairs [m, 2], each pair once, the lower row first."""
    rows = np.flatnonzero(partner != NO_PARTNER)
    return np.unique(np.sort(np.column_stack([rows, partner[rows]]), axis=1), axis=0)


def count_repeats(first: NDArray[np.int64]) -> dict[int, int]:
    """Return contents that occur PLACEHOLDER_COUNT times or more, most frequent first: {first row: count}."""
    counts = np.bincount(first, minlength=len(first))
    order = np.argsort(-counts, kind="stable")
    return {int(row): int(counts[row]) for row in order[: int((counts >= PLACEHOLDER_COUNT).sum())]}


def find_duplicate_problems(duplicates: NearDuplicates, data: Dataset, hashes: NDArray[np.uint64]) -> Iterator[Finding]:
    """Yield findings about near-duplicates; row i of the columns is image i of `data`."""
    first, notes = duplicates.first_copies, partial(_describe_pairs, duplicates.first_copies, hashes)
    crossing, disputed = partner_pairs(duplicates.leaking), partner_pairs(duplicates.conflicting)
    same_content = first[disputed[:, 0]] == first[disputed[:, 1]]
    if len(crossing):
        count = int((duplicates.leaking != NO_PARTNER).sum())
        says = f"{format_count(count, 'image')} have a near-duplicate in another part of your split: the score flatters"
        advice = "Take one side out (--fix leaves out that of the training part), or let graft split all of them."
        yield Finding("leak", "error", says, advice, crossing, notes(crossing))
    if same_content.any():
        says = f"{format_count(int(same_content.sum()), 'pair')} of the same content under different labels"
        advice = "One of the two is wrong, or both labels are true (then it is a task of several labels)."
        yield Finding("conflict", "error", says, advice, disputed[same_content], notes(disputed[same_content]))
    if not same_content.all():
        says = f"{format_count(int((~same_content).sum()), 'pair')} of near-duplicates under different labels"
        advice = "Look at both: often one label is wrong."
        yield Finding("near conflict", "warning", says, advice, disputed[~same_content], notes(disputed[~same_content]))
    pairs = partner_pairs(np.where(duplicates.is_copy, first, NO_PARTNER).astype(np.intp))
    pairs = pairs[~(_contains_pairs(pairs, disputed) | _contains_pairs(pairs, crossing))]
    if len(pairs):
        says = f"{format_count(len(pairs), 'image')} of the same content as another one"
        yield Finding("copy", "warning", says, "One of each is enough; --fix keeps it.", pairs)
    if repeats := count_repeats(first):
        contents = format_count(len(repeats), "content")
        says = f"{sum(repeats.values()):,} images of {contents} found {PLACEHOLDER_COUNT} times or more"
        advice = "Is it a placeholder for missing images, or an error page? Then delete them: it is learnt as a class."
        yield Finding(
            "placeholder", "warning", says, advice, single_cases(np.array(list(repeats))), _format_repeats(repeats)
        )
    near = partner_pairs(duplicates.nearest)
    near = near[~(_contains_pairs(near, disputed) | _contains_pairs(near, crossing))]
    if len(near):
        says = f"{format_count(len(near), 'pair')} of near-duplicates"
        advice = "graft fit keeps them on one side of its split. Whole series of them teach no more than a few."
        yield Finding("near-duplicate", "note", says, advice, near, notes(near))


def _format_repeats(often: Mapping[int, int]) -> list[str]:
    return [f"{count:,} times" for count in often.values()]


def _contains_pairs(pairs: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pairs are among `others`."""
    known = set(map(tuple, others.tolist()))
    return np.array([tuple(pair) in known for pair in pairs.tolist()], bool)


def _describe_pairs(first: NDArray[np.int64], hashes: NDArray[np.uint64], pairs: NDArray[np.intp]) -> list[str]:
    """Return a note on each pair: same content, mirrored, or nothing."""
    one, two = pairs.T
    is_mirrored = np.bitwise_count(hashes[one] ^ mirror_hashes(hashes[two])) < np.bitwise_count(
        hashes[one] ^ hashes[two]
    )
    return np.where(first[one] == first[two], "same content", np.where(is_mirrored, "mirrored", "")).tolist()
