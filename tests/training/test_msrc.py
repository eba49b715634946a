"""Several labels on real photos: a table read, split as its authors say, embedded, solved, calibrated and scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.backbones.backbone import load_backbone
from graft.backbones.stages import probed
from graft.data.read.source import read_source
from graft.model.calibrate import temperature, thresholds
from graft.model.multilabel import MultilabelEvaluation, judge_labels
from graft.training.embed import embed
from graft.training.heads.choose import Chosen, choose
from graft.training.material import Material, prepare
from graft_runtime.decide import probabilities

FLOOR = 0.467  # mean average precision of ridge on gradient histograms and colours, on the same split

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def solved(shared: Path) -> tuple[Material, Chosen]:
    frozen = probed(load_backbone(offline=True))
    data = read_source(shared / "data" / "msrc_multilabel")
    material = prepare(data, embed(frozen, data), 0)
    return material, choose("ridge", "auto", material.problems(frozen.widths, 1))


def score(material: Material, chosen: Chosen, limits: bool) -> MultilabelEvaluation:
    labels = material.data.labels
    heat, _ = temperature(chosen.solution.logits, labels[material.train])
    found = thresholds(probabilities(chosen.solution.logits, heat, "multilabel"), labels[material.train])
    features = material.embedded.chosen(material.test)[np.arange(len(material.test))][:, chosen.columns]
    logits = chosen.solution.head(features)
    chances = probabilities(logits, heat, "multilabel")
    return judge_labels(chances, labels[material.test], material.data.classes, found if limits else ())


def test_the_table_is_read_whole(solved: tuple[Material, Chosen]) -> None:
    material, _ = solved
    assert (len(material.train), len(material.test), len(material.data.classes)) == (354, 237, 23)
    assert material.data.task == "multilabel"
    assert material.data.counts()[material.data.classes.index("horse")] == 3
    tuned, held_out = material.inner()
    assert (material.targets(tuned).sum(axis=0) >= 1).all()
    assert len(held_out) == pytest.approx(0.15 * 354, abs=5)


def test_pretrained_features_find_labels_that_hand_made_ones_miss(solved: tuple[Material, Chosen]) -> None:
    """It was 0.950 when this was written, with F1 0.879 over all answers and 0.864 as mean over labels."""
    found = score(*solved, limits=True)
    print(found.figures())
    assert found.mean_average_precision > 0.9
    assert found.interval[0] > FLOOR
    assert solved[1].figures["out_of_fold_mean_average_precision"] == pytest.approx(
        found.mean_average_precision, abs=0.07
    )


def test_thresholds_from_left_out_answers_help_where_labels_are_rare(solved: tuple[Material, Chosen]) -> None:
    found, plain = score(*solved, limits=True), score(*solved, limits=False)
    assert found.macro_f1 > plain.macro_f1
    assert found.micro_f1 > plain.micro_f1 - 0.01
