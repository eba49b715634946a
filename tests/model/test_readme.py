"""What a stranger reads in the folder of a classifier, whichever kind it is."""

from __future__ import annotations

import html
import re
from typing import Any

import markdown_it
import numpy as np
import pytest

from graft.metrics.evaluation import evaluate_multiclass, evaluate_multilabel
from graft.model.card import build_readme
from graft_runtime.card import Card
from graft_runtime.terminal import escape_breaks

CLASSES = ("ant", "b|e")


def card(**entries: Any) -> Card:
    backbone = {"name": "net", "origin": "file", "licence": "MIT"}
    data, made = {"train": 8, "test": 2, "seed": 0}, {"graft": "1", "created": "today"}
    plain = Card(CLASSES, {}, backbone, {"solver": "ridge"}, "probe", 1.0, data=data, provenance=made)
    return Card(**(vars(plain) | entries))


def test_one_label_is_always_answered_and_its_share_of_right_answers_is_told() -> None:
    score = evaluate_multiclass(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), CLASSES)
    found = build_readme(card(), {"evaluation": score.as_dict()})
    assert "Tells 2 classes apart: ant, b|e. It always answers one of them" in found
    assert "**50.0%** of 2 test images that it never saw are right" in found
    assert "| b\\|e | - | 0.0% | 1 |" in found


def test_several_labels_are_any_number_and_their_mean_average_precision_is_told() -> None:
    score = evaluate_multilabel(np.array([[0.9, 0.4], [0.8, 0.2]]), np.array([[0, 0], [1, 0]]), CLASSES, (0.7, 0.5))
    found = build_readme(card(task="multilabel", thresholds=(0.7, 0.5)), {"evaluation": score.as_dict()})
    assert "Gives an image any number of 2 labels, or none: ant, b|e." in found
    assert "mean average precision on 2 test images that it never saw is\n**50.0%**; the true figure lies" in found
    assert "50.0% of them get exactly the right\nlabels; F1 over all labels is 66.7%." in found
    assert "| ant | 50.0% | 50.0% | 100.0% | 0.70 | 1 |" in found
    assert "| b\\|e | - | - | - | 0.50 | 0 |" in found


def test_a_classifier_that_was_not_scored_says_so() -> None:
    for task in ("multiclass", "multilabel"):
        assert "**not evaluated**" in build_readme(card(task=task), {"evaluation": None})


EVIL = (
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "a & <b>b</b>",
    "two\n# lines",
    "`code` *strong* _soft_ golden_retriever",
    "\x1b[31mred\u202e",
    "back\\<slash",
)


TAGS = {"h1", "h2", "p", "strong", "ul", "li", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.fault(23)
def test_names_are_words_and_neither_html_nor_markdown() -> None:
    chances = np.eye(len(EVIL)) * 0.9 + 0.01
    score = evaluate_multiclass(chances, np.arange(len(EVIL)), EVIL)
    backbone = {"name": "net", "origin": f"file {EVIL[0]}", "licence": EVIL[1]}
    for report in ({}, {"evaluation": score.as_dict()}):
        found = build_readme(card(classes=EVIL, backbone=backbone, strategy=EVIL[3]), report)
        assert "<" not in found
        assert not re.search(r"(?<!\\)[\[\]`*]", re.sub(r"\*\*|```\w*|\[\d.*", "", found.partition("## Use")[0]))
        assert "\x1b" not in found
        assert "\u202e" not in found
        assert found.count("\n# ") == 0  # but for the title, which begins the file
        assert "golden_retriever" in found
        for kind in ("commonmark", "gfm-like"):
            shown = markdown_it.MarkdownIt(kind, {"html": True, "linkify": False}).render(found)
            tags = set(re.findall(r"<(\w+)", shown))
            assert tags <= TAGS
            assert shown.count("<strong>") == len(re.findall(r"\*\*.*?\*\*", found))
            assert shown.count("<code") == 1  # the example
            for name in EVIL:
                assert html.escape(escape_breaks(name)) in shown


def test_a_card_of_an_earlier_version_lacks_some_of_it() -> None:
    found = build_readme(card(backbone={"name": "net"}, head={}, data={}, provenance={}), {})
    assert "- backbone: net, weights not stated, licence not stated\n- strategy: probe; head: -" in found
    assert "- trained on - images, tested on -; seed -" in found
