"""A network as it is: it answers with ImageNet's classes, scores folders named like them, and can be saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensors import same

from graft.data.dataset import from_arrays
from graft.data.readers.folder import read_folder
from graft.errors import DataError
from graft.heads.designs import Linear
from graft.jobs.direct import load_published_classifier, relabel_dataset
from graft.jobs.update.update import update
from graft.model.classifier import Classifier, load
from graft.model.network import Network
from graft.torch.direct import list_class_names
from graft.torch.head import build_head, head_to_arrays

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_published_classifier(offline=True)


def test_it_answers_with_the_classes_of_imagenet(classifier: Classifier) -> None:
    answer = classifier.predict(IMAGE)[0]
    assert answer.label in list_class_names(1000)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    card = classifier.card
    assert (card.strategy, card.temperature, card.task) == ("direct", 1.0, "multiclass")
    assert card.backbone["name"] == "tf_efficientnet_lite0"


def test_saved_is_loaded(classifier: Classifier, tmp_path: Path) -> None:
    again = load(classifier.save(tmp_path / "model"))
    assert same(classifier, again)
    assert again.classes == classifier.classes
    assert "head: published" in (tmp_path / "model" / "README.md").read_text()


def test_class_folders_are_relabelled_by_what_they_are_called(classifier: Classifier) -> None:
    data = from_arrays([IMAGE] * 4, [2, 0, 1, 2], ("n01440764", "goldfish", "DAISY"))
    again = relabel_dataset(data, classifier)
    assert again.classes == classifier.classes
    assert again.labels.tolist() == [985, 0, 1, 985]


def test_several_labels_are_relabelled_column_by_column(classifier: Classifier) -> None:
    data = from_arrays([IMAGE] * 3, [[1, 0, 0], [0, 1, 1], [0, 0, 0]], ("tench", "daisy", "n01440764"))
    labels = relabel_dataset(data, classifier).labels
    assert [np.flatnonzero(row).tolist() for row in labels] == [[0], [0, 985], []]


def test_what_cannot_be_scored_is_told(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="'stripes'"):
        relabel_dataset(from_arrays([IMAGE], [0], ("stripes",)), classifier)
    with pytest.raises(DataError, match="a label for each"):
        relabel_dataset(from_arrays([IMAGE]), classifier)


def test_a_classifier_of_other_classes_matches_by_their_names(classifier: Classifier) -> None:
    features = classifier.network.features
    network = Network(features, head_to_arrays(build_head(Linear(), features.width, 2)))
    other = Classifier(network, replace(classifier.card, classes=("cat", "dog")))
    assert relabel_dataset(from_arrays([IMAGE], [0], ("Dog",)), other).labels.tolist() == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("tf_efficientnet_lite0", 0.7), ("mobilenetv2_100", 0.7), ("deit_tiny_patch16_224", 0.7)]
)
def test_daisies_are_recognised(shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, least: float) -> None:
    monkeypatch.setenv("GRAFT_WEIGHTS", str(shared / "weights"))
    flowers = read_folder(shared / "data" / "flowers5" / "test")
    daisies = replace(flowers.take(flowers.labels == flowers.classes.index("daisy")), classes=("daisy",))
    daisies = replace(daisies, labels=np.zeros(len(daisies), np.int32))
    judge = load_published_classifier(name, offline=True)
    score = judge.evaluate(relabel_dataset(daisies, judge))
    print(name, score.count, score.accuracy)
    assert score.accuracy > least


def test_its_classes_can_be_renamed(classifier: Classifier, tmp_path: Path) -> None:
    names = classifier.classes
    scored = classifier.evaluate(relabel_dataset(from_arrays([IMAGE], [0], (names[0],)), classifier)).as_dict()
    fitted = replace(classifier, report=classifier.report | {"evaluation": scored})  # as fit --strategy direct
    update(fitted, tmp_path / "new", rename={names[0]: "a new name"})
    assert load(tmp_path / "new").classes == ("a new name", *names[1:])
