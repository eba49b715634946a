"""Material: who is trained on and who is tested, decided once, with nothing on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset, from_arrays
from graft.errors import DataError
from graft.features.embed import Embeddings, view_id
from graft.features.store import Store
from graft.training.material import Findings, Material, prepare_material

WIDTH = 40
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


class Made:
    """Images that only have features; some rows can be faults, some can be near-duplicates of others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        labels: list[int],
        split: list[int] | None = None,
        faults: dict[int, str] | None = None,
        twins: dict[int, int] | None = None,
        views: int = 1,
    ) -> tuple[Dataset, Embeddings]:
        count, rng = len(labels), np.random.default_rng(0)
        features = rng.standard_normal((count, views, WIDTH)).astype(np.float32)
        for one, other in (twins or {}).items():
            features[one] = features[other] + 1e-3
        data = from_arrays([np.zeros((1, 1, 3), np.uint8)] * count, labels, CLASSES)
        data = replace(data, split=np.array(split or [UNSPLIT] * count, np.int8))
        digests = np.frombuffer(b"".join((number + 1).to_bytes(16) for number in range(count)), np.uint8)
        digests = digests.reshape(count, 16)
        with Store(self.folder / "features", (WIDTH,)) as store:
            for view in range(views):
                store.add([(name.tobytes(), view_id(0, view)) for name in digests], features[:, view])
        good = np.array([row for row in range(count) if row not in (faults or {})], np.intp)
        return data, Embeddings(store, 0, good, digests[good], faults or {}, count, 0.0)


def parts(material: Material) -> tuple[list[int], list[int]]:
    return material.train.tolist(), material.test.tolist()


def test_a_ready_made_split_is_respected(made: Made) -> None:
    split = [TRAIN, TEST, TRAIN, TRAIN, TEST, TRAIN]
    assert parts(prepare_material(*made([0, 0, 0, 1, 1, 1], split), seed=3)) == ([0, 2, 3, 5], [1, 4])


def test_a_validation_part_joins_the_training_part(made: Made) -> None:
    split = [TRAIN, TEST, VALID, TRAIN, TEST, VALID]
    assert parts(prepare_material(*made([0, 0, 0, 1, 1, 1], split), seed=0)) == ([0, 2, 3, 5], [1, 4])


def test_without_a_test_part_the_validation_part_is_it(made: Made) -> None:
    split = [TRAIN, VALID, TRAIN, TRAIN, VALID, TRAIN]
    assert parts(prepare_material(*made([0, 0, 0, 1, 1, 1], split), seed=0)) == ([0, 2, 3, 5], [1, 4])


def test_a_training_part_alone_leaves_nothing_to_test(made: Made) -> None:
    material = prepare_material(*made([0, 0, 1, 1], [TRAIN] * 4), seed=0)
    assert parts(material) == ([0, 1, 2, 3], [])
    assert material.findings.untested == ("ant", "bee")


def test_without_a_split_about_a_fifth_of_each_class_is_the_test_part(made: Made) -> None:
    labels = [0] * 200 + [1] * 100 + [2] * 100
    material = prepare_material(*made(labels), seed=0)
    tested = np.bincount(np.array(labels)[material.test])
    assert np.abs(tested - [40, 20, 20]).max() <= 12
    assert sorted(material.train.tolist() + material.test.tolist()) == list(range(400))
    assert parts(prepare_material(*made(labels), seed=0)) == parts(material)
    assert parts(prepare_material(*made(labels), seed=1)) != parts(material)


@pytest.mark.fault(28)
def test_near_duplicates_stay_on_one_side_of_our_split(made: Made) -> None:
    twins = {number: number - 1 for number in range(1, 40, 2)}
    material = prepare_material(*made([0] * 20 + [1] * 20, twins=twins), seed=0)
    assert material.findings.alike == 40
    assert material.findings.leaks == 0
    assert {row ^ 1 for row in material.test.tolist()} == set(material.test.tolist())
    assert 2 <= len(material.test) <= 14


def test_images_of_one_owner_stay_on_one_side(made: Made) -> None:
    data, embedded = made([0] * 40 + [1] * 40)
    patients = np.arange(80) // 8
    material = prepare_material(replace(data, groups=patients.astype(np.int64)), embedded, seed=0)
    owners = set((material.test // 8).tolist())
    assert 0 < len(owners) < 10
    assert len(material.test) == 8 * len(owners)
    assert material.findings.alike == 0


@pytest.mark.fault(28)
def test_leaks_of_a_ready_made_split_are_counted_and_left_as_they_are(made: Made) -> None:
    split = [TRAIN, TRAIN, TEST, TRAIN, TRAIN, TEST, TEST, TEST]
    material = prepare_material(*made([0, 0, 0, 1, 1, 1, 0, 1], split, twins={2: 0, 5: 3, 7: 6}), seed=0)
    assert material.findings.leaks == 2  # 7 is like 6, but both are for testing
    assert material.findings.alike == 6
    assert material.test.tolist() == [2, 5, 6, 7]


def test_a_class_that_lost_all_its_images_is_named_and_the_others_renumbered(made: Made) -> None:
    data, embedded = made([0, 0, 1, 2, 2, 2], faults={2: "truncated"})
    material = prepare_material(data, embedded, seed=0)
    assert material.findings == Findings({"image 2": "truncated"}, {}, missing=("bee",), few=("ant", "cat"))
    assert material.data.classes == ("ant", "cat")
    assert material.data.labels.tolist() == [0, 0, 1, 1, 1]


def test_fewer_than_two_classes_are_refused_with_the_reasons(made: Made) -> None:
    data, embedded = made([0, 0, 1, 1], faults={2: "empty file", 3: "empty file"})
    with pytest.raises(DataError, match=r"Fewer than two classes .*: 2 images were left out \(2 x empty file\)"):
        prepare_material(data, embedded, seed=0)


def test_classes_that_share_their_only_image_are_refused(made: Made) -> None:
    data, embedded = made([0, 1])
    same = replace(embedded, digests=embedded.digests[[0, 0]])
    with pytest.raises(DataError, match="near-duplicates of each other"):
        prepare_material(data, same, 0)


@pytest.mark.fault(25)
def test_a_class_that_only_the_test_part_has_is_refused(made: Made) -> None:
    with pytest.raises(DataError, match="training part has no usable image of cat, the test part has"):
        prepare_material(*made([0, 0, 1, 1, 2], [TRAIN, TEST, TRAIN, TEST, TEST]), seed=0)


@pytest.mark.fault(25)
def test_a_class_that_only_the_training_part_has_is_named(made: Made) -> None:
    material = prepare_material(*made([0, 0, 1, 1, 2], [TRAIN, TEST, TRAIN, TEST, TRAIN]), seed=0)
    assert material.findings.untested == ("cat",)


def test_all_views_of_an_image_and_of_its_twin_are_in_one_unit_and_one_fold(made: Made) -> None:
    labels = [0] * 12 + [1] * 12
    material = prepare_material(*made(labels, [TRAIN] * 22 + [TEST] * 2, twins={5: 4, 20: 4}, views=3), seed=0)
    problems = material.build_problems((10, 30), views=3)
    whole, last = problems["all"], problems["last"]
    assert len(whole) == 66
    assert whole.labels.reshape(22, 3).tolist() == [[label] * 3 for label in labels[:22]]
    for column in (whole.groups, whole.folds):
        each = column.reshape(22, 3)
        assert (each == each[:, :1]).all()
        assert each[4, 0] == each[5, 0] == each[20, 0]
    assert len(np.unique(whole.groups)) == 20
    assert all(len(np.unique(whole.folds[whole.groups == unit])) == 1 for unit in whole.groups)
    assert sorted(np.unique(whole.folds).tolist()) == [0, 1, 2, 3]
    assert np.array_equal(last.matrix, whole.matrix[:, 10:])


def test_a_problem_is_the_training_features_standardised_by_themselves(made: Made) -> None:
    data, embedded = made([0] * 8 + [1] * 8, ([TRAIN] * 6 + [TEST] * 2) * 2)
    material = prepare_material(data, embedded, seed=0)
    raw: NDArray[np.float32] = embedded[material.train]
    want = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    assert np.allclose(material.build_problems((WIDTH,), 1)["all"].matrix, want, atol=1e-4)


def test_the_fingerprint_names_images_and_labels_and_not_their_order(made: Made) -> None:
    data, embedded = made([0, 1, 0, 1])
    material = prepare_material(data, embedded, seed=0)
    turned = replace(embedded, digests=embedded.digests[::-1])
    assert prepare_material(data.take(np.array([3, 2, 1, 0])), turned, seed=0).fingerprint() == material.fingerprint()
    other = replace(data, labels=np.array([1, 0, 0, 1], np.int32))
    assert prepare_material(other, embedded, seed=0).fingerprint() != material.fingerprint()


# --- tuning: rows to learn from and rows to choose by -----------------------------------------------------------------


def test_the_users_validation_part_is_held_out_while_tuning(made: Made) -> None:
    split = [TRAIN, TEST, VALID, TRAIN, TEST, VALID]
    material = prepare_material(*made([0, 0, 0, 1, 1, 1], split), seed=0)
    assert material.valid.tolist() == [2, 5]
    assert [rows.tolist() for rows in material.split_validation()] == [[0, 3], [2, 5]]


def test_a_class_that_only_the_validation_part_has_is_tuned_on(made: Made) -> None:
    split = [TRAIN, TEST, VALID, TRAIN, TEST, VALID, VALID]
    material = prepare_material(*made([0, 0, 0, 0, 1, 1, 0], split), seed=0)
    assert [rows.tolist() for rows in material.split_validation()] == [[0, 3, 5], [2, 6]]


@pytest.mark.parametrize("split", [[TRAIN, VALID] * 3, None])
def test_a_validation_part_that_is_the_test_part_or_none_leaves_none(made: Made, split: list[int] | None) -> None:
    assert prepare_material(*made([0, 0, 0, 1, 1, 1], split), seed=0).valid.tolist() == []


def test_without_a_validation_part_a_share_of_the_training_part_is_held_out(made: Made) -> None:
    twins = {number: number - 1 for number in range(1, 60, 2)}
    material = prepare_material(*made([0] * 40 + [1] * 20, twins=twins), seed=0)
    tuned, held_out = material.split_validation()
    assert sorted([*tuned, *held_out]) == material.train.tolist()
    labels = material.data.labels
    for label in (0, 1):
        own = int((labels[material.train] == label).sum())
        assert int((labels[held_out] == label).sum()) == pytest.approx(0.15 * own, abs=2)
    assert not set(material.groups[tuned]) & set(material.groups[held_out])
    assert material.split_validation()[1].tolist() == held_out.tolist()
    assert replace(material, seed=1).split_validation()[1].tolist() != held_out.tolist()
    assert len(material.split_validation(0.5)[1]) == pytest.approx(len(material.train) / 2, abs=2)


def test_every_class_keeps_an_image_to_tune_on(made: Made) -> None:
    material = prepare_material(*made([0, 1, 2, 2], [TRAIN] * 4), seed=0)
    tuned, held_out = material.split_validation(0.9)
    assert set(material.data.labels[tuned]) == {0, 1, 2}
    assert len(held_out) == 1


def test_a_problem_on_some_rows_is_the_problem_of_a_material_of_these_rows(made: Made) -> None:
    data, embedded = made([0, 1] * 20, [TRAIN] * 40)
    material = prepare_material(data, embedded, seed=0)
    tuned, held_out = material.split_validation()
    parts = np.full(40, TEST, np.int8)
    parts[tuned] = TRAIN
    other = prepare_material(replace(data, split=parts), embedded, seed=0)
    for name in ("last", "all"):
        mine, theirs = material.build_problems((10, 30), 1, tuned)[name], other.build_problems((10, 30), 1)[name]
        assert len(mine) == len(tuned) == 40 - len(held_out)
        assert np.array_equal(mine.matrix, theirs.matrix)
        assert np.array_equal(mine.labels, theirs.labels)
        assert np.array_equal(mine.folds, theirs.folds)


def test_images_with_and_without_a_label_are_refused(made: Made) -> None:
    with pytest.raises(DataError, match="1 of 4 images have no label"):
        prepare_material(*made([0, 0, 1, -1]), seed=0)


# --- several labels ---------------------------------------------------------------------------------------------------


def tagged(made: Made, labels: Any, *rest: Any, **more: Any) -> tuple[Dataset, Embeddings]:
    hot = np.array(labels, np.uint8)
    data, embedded = made([0] * len(hot), *rest, **more)
    return replace(data, labels=hot), embedded


HOT = [[1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1]]


def test_labels_without_a_usable_image_are_left_out(made: Made) -> None:
    material = prepare_material(*tagged(made, HOT, faults={7: "truncated"}), seed=0)
    assert material.findings.missing == ("bee",)
    assert material.data.classes == ("ant", "cat")
    assert material.data.labels.tolist() == [[row[0], row[2]] for row in HOT[:7]]
    assert np.array_equal(material.targets(np.array([4, 3])), [[1, 1], [0, 1]])


def test_a_single_label_is_there_or_not_and_none_at_all_is_refused(made: Made) -> None:
    one = [[row[0], 0, 0] for row in HOT]
    assert prepare_material(*tagged(made, one), seed=0).data.classes == ("ant",)
    with pytest.raises(DataError, match=r"No class has an image that can be used: 0 images"):
        prepare_material(*tagged(made, np.zeros((8, 3))), seed=0)


def test_of_several_labels_each_is_split_folded_and_held_out_by_its_share(made: Made) -> None:
    labels = (np.random.default_rng(1).random((200, 3)) < [0.5, 0.2, 0.06]).astype(np.uint8)
    material = prepare_material(*tagged(made, labels, views=2), seed=0)
    sizes = labels.sum(axis=0)
    np.testing.assert_allclose(labels[material.test].sum(axis=0), sizes * 0.2, atol=2)
    _, held_out = material.split_validation()
    np.testing.assert_allclose(labels[held_out].sum(axis=0), labels[material.train].sum(axis=0) * 0.15, atol=2)
    problem = material.build_problems((10, 30), 2)["all"]
    assert problem.labels.shape == (2 * len(material.train), 3)
    assert np.array_equal(problem.labels[::2], labels[material.train])
    assert np.array_equal(problem.targets, problem.labels)
    assert np.array_equal(problem.folds[1::2], problem.folds[::2])
    filled = np.stack([problem.labels[problem.folds == fold].sum(axis=0) for fold in range(4)])
    np.testing.assert_allclose(filled, np.tile(problem.labels.sum(axis=0) / 4, (4, 1)), atol=3)


def test_a_label_that_only_the_test_part_has_is_refused_and_one_it_lacks_is_named(made: Made) -> None:
    split = [TRAIN, TEST] * 4
    with pytest.raises(DataError, match="training part has no usable image of bee"):
        prepare_material(*tagged(made, HOT, split), seed=0)
    assert prepare_material(*tagged(made, HOT, [TRAIN, TEST, TEST, TRAIN] * 2), seed=0).findings.untested == (
        "bee",
        "cat",
    )


def test_the_fingerprint_of_several_labels_names_them_in_whatever_order_the_images_are(made: Made) -> None:
    data, embedded = tagged(made, HOT)
    material = prepare_material(data, embedded, seed=0)
    turned = replace(embedded, digests=embedded.digests[::-1])
    assert prepare_material(data.take(np.arange(8)[::-1]), turned, seed=0).fingerprint() == material.fingerprint()
    other = replace(data, labels=np.array([[0, 1, 1], *HOT[1:]], np.uint8))
    assert prepare_material(other, embedded, seed=0).fingerprint() != material.fingerprint()
