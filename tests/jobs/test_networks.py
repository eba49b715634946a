"""The catalogue as a person sees it; and a network as it is, with ImageNet's classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensors import same
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.data.dataset import from_arrays
from graft.data.readers.folder import read_folder
from graft.errors import DataError, UsageError
from graft.heads.designs import Linear
from graft.jobs.networks import backbones, load_published_classifier, relabel_dataset
from graft.jobs.update.update import update
from graft.model.classifier import Classifier, load
from graft.model.network import Network
from graft.torch.direct import list_class_names
from graft.torch.head import build_head, head_to_arrays


def graft(*words: str) -> Result:
    return CliRunner().invoke(app.app, list(words))


def test_a_filter_is_a_part_of_a_name_or_a_pattern() -> None:
    part = {each["name"] for each in backbones("efficientnet_lite")}
    assert "tf_efficientnet_lite0" in part
    assert all("efficientnet_lite" in name for name in part)
    pattern = {each["name"] for each in backbones("resnet1?")}
    assert {"resnet18", "resnet14t"} >= pattern - {"resnet10t"}
    assert "resnet18" in pattern
    assert [each["name"] for each in backbones("mobilenet_v2")] == ["mobilenetv2_100"]  # by its other name


def test_the_default_is_installed_with_graft_and_measured() -> None:
    (found,) = backbones("tf_efficientnet_lite0")
    assert found["weights"] == "embedded"
    assert found["licence"] == "apache-2.0"
    assert found["size"] == 224
    assert 4e6 < found["parameters"] < 6e6
    assert 0.3 < found["gmac"] < 0.5


def test_a_file_in_the_users_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mobilenetv2_100.safetensors").write_bytes(b"")
    monkeypatch.setenv("GRAFT_WEIGHTS", str(tmp_path))
    (found,) = backbones("mobilenet_v2")
    assert found["weights"] == "folder"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_offline_is_no_word_for_none(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights that may not be fetched now are not weights that nobody published."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    names = ("efficientnet_lite0", "tf_efficientnet_lite0", "cnn")
    monkeypatch.setattr("graft.backbones.weights._find_cached", lambda entry: None)

    def places(**options: bool) -> list[str]:
        return [each["weights"] for name in names for each in backbones(name, **options) if each["name"] == name]

    assert places() == ["download", "embedded", "none"]
    assert "'offline'" not in graft("backbones", "-f", "lite0").stdout
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert places(offline=by == "option") == ["offline", "embedded", "none"]
    done = graft("backbones", "-f", "lite0", *(["--offline"] if by == "option" else []))
    assert [line.split()[5] for line in done.stdout.splitlines()[1:3]] == ["offline", "embedded"]
    assert "'offline': the weights are published but not on this machine" in done.stdout


def test_the_table_and_the_json_list_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    done = graft("backbones", "--filter", "efficientnet_lite", "--json")
    found = json.loads(done.stdout)
    table = graft("backbones", "-f", "efficientnet_lite").stdout.splitlines()
    assert [line.split()[0] for line in table[1:-1]] == [each["name"] for each in found]
    assert table[-1].startswith(f"{len(found)} ")


@pytest.mark.parametrize("filter", ["nosuchnetwork", "resnet[", "*.nosuchtag"])
def test_a_filter_without_a_match_is_a_usage_error(filter: str) -> None:
    with pytest.raises(UsageError, match="No network matches"):
        backbones(filter)
    done = graft("backbones", "--filter", filter)
    assert done.exit_code == 2
    assert done.stdout == ""


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
