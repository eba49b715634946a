"""The scikit-learn contract: its own checks where they need no table of numbers, and ours where they do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks as checks

from graft.backbones import catalog
from graft.backbones.features import FeatureRunner, Features
from graft.errors import DataError, UsageError
from graft.estimator import ImageClassifier
from graft.jobs.fit import fit
from graft.torch import build

QUICK = "probe:head=ridge,layers=last"
NO_TABLE_NEEDED = [  # but for ..._init_or_set_params, whose wrong types the run-time type checks of tests refuse
    checks.check_estimator_cloneable,
    checks.check_estimator_repr,
    checks.check_estimator_tags_renamed,
    checks.check_get_params_invariance,
    checks.check_mixin_order,
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_requires_y_none,
    checks.check_set_params,
    checks.check_valid_tag_types,
]


@pytest.fixture(scope="module")
def X(photos: Path) -> list[str]:
    return [str(path) for path in sorted(photos.glob("*/*"))]


@pytest.fixture(scope="module")
def y(X: list[str]) -> list[str]:
    return [Path(path).parent.name for path in X]


@pytest.fixture(scope="module")
def fitted(X: list[str], y: list[str]) -> ImageClassifier:
    return ImageClassifier(strategy=QUICK).fit(X, y)


# --- scikit-learn's own checks ----------------------------------------------------------------------------------------


def test_check_estimator_passes_and_says_that_a_row_of_numbers_is_no_image() -> None:
    with pytest.warns(SkipTestWarning, match="two_d_array=False"):
        results = checks.check_estimator(ImageClassifier())
    assert [each["check_name"] for each in results if each["status"] != "passed"] == []


@pytest.mark.parametrize("check", NO_TABLE_NEEDED, ids=lambda check: check.__name__)
def test_a_check_of_scikit_learn_passes(check: Callable[[str, Any], None]) -> None:
    check("ImageClassifier", ImageClassifier())


# --- the contract -----------------------------------------------------------------------------------------------------


def test_it_fits_predicts_and_scores(fitted: ImageClassifier, X: list[str], y: list[str]) -> None:
    assert fitted.classes_.tolist() == ["disc", "frame", "stripes"]
    chances = fitted.predict_proba(X)
    assert chances.shape == (36, 3)
    assert chances.sum(axis=1) == pytest.approx(np.ones(36))
    assert fitted.predict(X).tolist() == fitted.classes_[chances.argmax(axis=1)].tolist()
    assert fitted.score(X, y) == np.mean(fitted.predict(X) == np.array(y)) >= 0.95
    assert fitted.classifier_.report["data"]["train"] == 36, "all images given are trained on"


@pytest.mark.slow
def test_fitting_again_gives_the_same_and_changes_no_parameter(X: list[str], y: list[str]) -> None:
    estimator = ImageClassifier(strategy=QUICK, random_state=3)
    before = estimator.get_params()
    first = estimator.fit(X, y).predict_proba(X)
    assert np.array_equal(estimator.fit(X, y).predict_proba(X), first)
    assert estimator.get_params() == before
    assert np.array_equal(clone(estimator).fit(X[::-1], y[::-1]).predict_proba(X), first), "order matters"


def test_a_clone_is_not_fitted_and_has_the_same_parameters(fitted: ImageClassifier, X: list[str]) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(X[:1])
    with pytest.raises(NotFittedError):
        copy.predict_proba(X[:1])


@pytest.mark.slow
def test_pickled_and_back_it_gives_the_same_probabilities(fitted: ImageClassifier, X: list[str]) -> None:
    back = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(back.predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([7, -1, 300]),
        np.array([True, False, True]),
        np.array([0.0, 1.0, 2.0]),
        np.array(["b", "a", "c"], object),
    ],
    ids=["ints", "bools", "floats", "objects"],
)
def test_labels_come_back_as_they_were_given(X: list[str], labels: np.ndarray[Any, Any]) -> None:
    given = labels[np.arange(36) // 12]
    estimator = ImageClassifier(strategy=QUICK).fit(X, given)
    assert estimator.classes_.tolist() == sorted(set(labels.tolist()))
    found = estimator.predict(X)
    assert found.dtype == labels.dtype
    assert np.mean(found == given) >= 0.9


def test_a_column_of_labels_is_taken_with_a_warning_and_a_table_refused(X: list[str], y: list[str]) -> None:
    with pytest.warns(DataConversionWarning, match="1d array was expected"):
        found = ImageClassifier(strategy=QUICK).fit(X, np.array(y)[:, None])
    assert found.classes_.tolist() == ["disc", "frame", "stripes"]
    with pytest.raises(ValueError, match="1d array"):
        ImageClassifier().fit(X, np.zeros((36, 2)))


def test_what_is_no_label_is_refused(X: list[str], y: list[str]) -> None:
    for labels, message in (
        (y[:-1], "X has 36 images, y has 35 labels"),
        (["one"] * 36, "at least two classes.*'one'"),
        (np.linspace(0.1, 0.9, 36), "continuous"),
        (None, "1d array"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageClassifier().fit(X, labels)


def test_a_class_without_a_readable_image_is_an_error_and_never_another_class(
    X: list[str], y: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="Not one image of a can be read"):
        ImageClassifier(strategy=QUICK).fit([str(tmp_path / "bad.jpg"), *X], ["a", *y])


def test_an_image_that_cannot_be_judged_is_an_error(fitted: ImageClassifier, X: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 2 images.*bad\.jpg: empty file"):
        fitted.predict([X[0], str(tmp_path / "bad.jpg")])


def test_wrong_parameters_are_told_at_fit_and_not_before(X: list[str], y: list[str]) -> None:
    estimator = ImageClassifier(strategy="magic").set_params(backbone="nosuch")
    with pytest.raises(UsageError, match="no strategy 'magic'"):
        estimator.fit(X, y)


@pytest.mark.slow
def test_the_seed_may_be_scikit_learns(X: list[str], y: list[str]) -> None:
    for seed in (None, np.random.RandomState(0)):
        assert ImageClassifier(strategy=QUICK, random_state=seed).fit(X, y).score(X, y) >= 0.95


@pytest.mark.slow
def test_images_in_memory_do_as_well(X: list[str], y: list[str]) -> None:
    small = np.stack([np.asarray(Image.open(path).resize((64, 64))) for path in X])
    estimator = make_pipeline(ImageClassifier(strategy=QUICK)).fit(small, y)
    assert estimator.score(small, y) >= 0.95
    assert estimator.predict(small[:1]).tolist() == ["disc"]


# --- what it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_and_its_folds_compute_each_feature_once(
    X: list[str], y: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training runs the frozen network; only scoring, which runs the whole classifier, computes again."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    fit_seen: list[Features] = []

    compiled = Features.compile_features

    def counting(features: Features) -> FeatureRunner:
        fit_seen.append(features)
        return compiled(features)

    monkeypatch.setattr(Features, "compile_features", counting)
    scores = cross_val_score(ImageClassifier(strategy=QUICK), X, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() >= 0.8
    assert len(fit_seen) == 2, "the third fold has only images that an earlier one had"
    assert sum(path.stat().st_size for path in (tmp_path / "features").rglob("*.index")) == 36 * 24
    grid = {"strategy": [QUICK, "probe:head=ncm,layers=last"]}
    search = GridSearchCV(ImageClassifier(), grid, cv=2).fit(X, y)
    assert len(fit_seen) == 2, "the search computed features again"
    assert search.best_params_["strategy"] in grid["strategy"]
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() >= 0.7
    assert search.predict(X[:1]).tolist() == ["disc"]


@pytest.fixture
def tail(tmp_path: Path) -> ImageClassifier:
    """A strategy that trains, on a small network with random weights."""
    torch.manual_seed(0)
    path = tmp_path / "test_resnet.safetensors"
    save_file(build.build_network(catalog.find_entry("test_resnet")).state_dict(), path)
    return ImageClassifier(strategy="tail:cut=0.8,views=1", backbone="test_resnet", weights=path, offline=True)


@pytest.mark.slow
def test_a_head_and_a_recipe_are_those_of_fit(tail: ImageClassifier, X: list[str], y: list[str]) -> None:
    estimator = clone(tail).set_params(head="mlp:hidden=8", recipe="epochs=1,rate=0.01,refit=no")
    X, y = X[::2], y[::2]
    assert {**tail.get_params(), "head": "mlp:hidden=8", "recipe": "epochs=1,rate=0.01,refit=no"} == (
        estimator.get_params()
    )
    card = estimator.fit(X, y).classifier_.card
    assert card.choices["head"] == "mlp:hidden=8"
    assert (card.recipe["epochs"], card.recipe["rate"]) == (1, 0.01)
    again = clone(estimator).fit(X, y)
    assert np.array_equal(again.predict_proba(X), estimator.predict_proba(X))
    for wrong, message in (
        ({"recipe": "rate=0"}, "'rate' must be above 0"),
        ({"head": "cnn"}, "no head 'cnn'"),
        ({"strategy": "probe", "head": None}, "A recipe is for training"),
    ):
        with pytest.raises(UsageError, match=message):
            clone(estimator).set_params(**wrong).fit(X, y)


@pytest.mark.slow
def test_a_recipe_is_searched_and_cross_validated(tail: ImageClassifier, X: list[str], y: list[str]) -> None:
    recipes = ["epochs=1,rate=0.0001,refit=no,blend=none", "epochs=2,rate=0.001,refit=no,blend=none"]
    search = GridSearchCV(tail, {"recipe": recipes}, cv=3, scoring="neg_log_loss").fit(X, y)
    scores = search.cv_results_["mean_test_score"].tolist()
    assert scores[0] != scores[1], "both recipes trained the same"
    best = recipes[int(np.argmax(scores))]
    assert search.best_params_ == {"recipe": best}
    assert search.best_estimator_.classifier_.card.choices["recipe"] == best
    other = recipes[int(np.argmin(scores))]
    folds = cross_val_score(clone(tail).set_params(recipe=other), X, y, cv=3, scoring="neg_log_loss")
    assert folds.mean() == pytest.approx(min(scores), rel=1e-12)


@pytest.mark.slow
def test_it_is_the_same_classifier_as_that_of_fit(fitted: ImageClassifier, photos: Path, X: list[str]) -> None:
    """With all images in a train folder and three beside them, as `fit` wants a test part."""
    from graft.data import dataset as table
    from graft.data.dataset import TRAIN, Dataset

    labels = np.arange(36, dtype=np.int32) // 12
    paths = table.from_paths(X, labels, ("disc", "frame", "stripes"))
    data = Dataset(paths.images, labels, paths.classes, np.full(36, TRAIN, np.int8))
    assert np.array_equal(fit(data, strategy=QUICK).predict_probs(data)[0], fitted.predict_proba(X))
    assert fitted.classifier_.classes == ("disc", "frame", "stripes")  # saved and exported as it is called
