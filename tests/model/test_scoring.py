"""A score's promises: sets, rejection and strangers, each counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graft.backbones import catalog
from graft.data.readers.folder import read_folder
from graft.errors import UsageError
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load
from graft.torch.build import build_network
from graft_runtime.card import COVERAGES
from graft_runtime.decide import prediction_set_threshold


@pytest.fixture(scope="module")
def classifier(photos: Path) -> Classifier:
    return fit(photos, strategy="probe:head=ridge,layers=last")


def noise(count: int) -> list[np.ndarray]:
    """Images unlike all that was trained on."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.slow
def test_the_sets_of_a_score_are_counted_by_hand(classifier: Classifier, photos: Path) -> None:
    score, data = classifier.evaluate(photos), read_folder(photos)
    said = classifier.predict(data, coverage=0.9)
    assert score.trust.sets
    truth = [classifier.classes[label] for label in data.labels]
    held = [true in (each.prediction_set or ()) for true, each in zip(truth, said, strict=True)]
    assert score.trust.sets.covered == pytest.approx(np.mean(held))
    assert score.trust.sets.mean_size == pytest.approx(np.mean([len(each.prediction_set or ()) for each in said]))
    least = prediction_set_threshold(classifier.card.sets, 0.9)
    for each in said:
        assert each.prediction_set
        assert each.prediction_set[0] == max(each.probabilities, key=lambda name: each.probabilities[name])
        assert set(each.prediction_set[1:]) <= {name for name, chance in each.probabilities.items() if chance >= least}


def test_a_higher_coverage_gives_larger_sets_and_one_too_high_for_so_few_images_all_classes(
    classifier: Classifier, photos: Path
) -> None:
    image = next(photos.rglob("*.png"))
    sizes = [len(classifier.predict(image, coverage=coverage)[0].prediction_set or ()) for coverage in COVERAGES]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 3
    for wrong in (0.0, 1.0, 1.5):
        with pytest.raises(UsageError, match="A coverage is a share"):
            classifier.predict(image, coverage=wrong)
    with pytest.raises(UsageError, match="no prediction sets"):
        replace(classifier, card=replace(classifier.card, sets=())).predict(image, coverage=0.9)


def test_what_is_like_nothing_is_unknown_with_the_nearest_as_evidence(classifier: Classifier, photos: Path) -> None:
    odd = classifier.predict(noise(4))
    assert all(each.unknown and each.label == "" and each.labels == () for each in odd)
    assert all(len(each.nearest) == 5 for each in odd)
    for each in odd:
        cosines = [one.similarity for one in each.nearest]
        assert cosines == sorted(cosines, reverse=True)
        assert all(one.labels == (Path(one.image).parent.name,) for one in each.nearest)
        assert (photos / each.nearest[0].image).is_file()
    never = classifier.predict(noise(4), unknown=0)
    assert all(not each.unknown and each.label in classifier.classes for each in never)
    with pytest.raises(UsageError, match="may be called unknown lies from 0 to 1"):
        classifier.predict(noise(1), unknown=1.0)


def test_a_training_image_is_its_own_nearest(classifier: Classifier, photos: Path) -> None:
    assert classifier.memory
    assert classifier.memory.known
    name = classifier.memory.known.names[3]
    (found,) = classifier.predict(photos / name)
    assert found.nearest[0].image == name
    assert found.nearest[0].similarity == pytest.approx(1, abs=2e-3)


def test_the_rejection_in_the_score_is_that_of_the_answers(classifier: Classifier, photos: Path) -> None:
    score, said = classifier.evaluate(photos), classifier.predict(read_folder(photos))
    assert score.trust.unknown
    assert score.trust.unknown.rejected == pytest.approx(np.mean([each.unknown for each in said]))


@pytest.mark.slow
def test_saved_and_loaded_knows_the_same(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    loaded, images = load(classifier.save(tmp_path / "model")), [*noise(2), *[np.zeros((9, 9, 3), np.uint8)]]
    assert loaded.predict(images, coverage=0.8) == classifier.predict(images, coverage=0.8)
    assert loaded.evaluate(photos) == classifier.evaluate(photos)


def test_test_images_leave_no_trace_in_what_is_known(classifier: Classifier) -> None:
    memory = classifier.memory
    assert memory
    assert memory.known
    assert memory.tested
    assert not set(memory.known.names) & set(memory.tested.names)
    assert len(memory.known.names) + len(memory.tested.names) == 36
    assert not memory.find_trained(memory.tested.digests).any()
    assert len(memory.known.strays) == len(memory.known.names)


@pytest.mark.slow
def test_a_tuned_network_compares_images_where_it_was_left_frozen(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "test_resnet.safetensors"
    save_file(build_network(catalog.find_entry("test_resnet")).state_dict(), weights)
    tuned = fit(
        photos,
        strategy="tail:cut=0.9,views=1",
        backbone="test_resnet",
        weights=weights,
        recipe="epochs=1,blend=none",
        offline=True,
    )
    assert tuned.memory
    assert tuned.memory.known
    layers = tuned.card.unknown["layers"]
    assert len(layers) > 1
    assert set(layers) < set(tuned.report["phases"][-1]["frozen"])
    assert len(tuned.memory.known.strays) == tuned.report["data"]["train"]  # none was learned from there: all are asked
    loaded, data = load(tuned.save(tmp_path / "model")), read_folder(photos)
    assert loaded.predict(data) == tuned.predict(data)
    chances, _, _ = tuned.predict_probs(data)  # without the layer
    look = tuned.run_forward(data)
    np.testing.assert_allclose(tuned.calibrate_logits(look.logits), chances, atol=1e-5)
