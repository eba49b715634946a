"""A graph as one file beside its weights: all that is known of it comes back, and it is that of the graph itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from graft.backbones import facts
from graft.backbones.graph import TOP, Graph
from graft.errors import ModelError
from graft.torch.fresh import fresh_backbone


@pytest.fixture(scope="module")
def graph() -> Graph:
    return fresh_backbone("test_resnet").graph


def known(graph: Graph) -> tuple[object, ...]:
    return graph.stages, graph.averaged, graph.shapes, graph.identity, graph.tensors.keys()


def test_what_was_dumped_comes_back_to_the_byte(graph: Graph) -> None:
    content = facts.dump(graph)
    read = facts.parse(content, graph.tensors)
    assert known(read) == known(graph)
    assert facts.dump(read) == content
    assert len(onnx.ModelProto.FromString(content).metadata_props) == 1


def test_a_graph_that_was_read_and_shortened_says_what_is_left_of_it(graph: Graph) -> None:
    read = facts.parse(facts.dump(graph), graph.tensors)
    short = facts.shortened(read, 2)
    again = facts.parse(facts.dump(short), short.tensors)
    assert known(again) == known(short) == known(facts.shortened(graph, 2))
    assert TOP not in again.shapes
    assert (graph.averaged, again.averaged) == (True, False)
    assert list(again.running.run(np.zeros((1, 3, 160, 160), np.uint8), list(again.shapes))[0].shape[1:])


def test_tensors_are_all_that_there_were_and_no_others(graph: Graph) -> None:
    content, name = facts.dump(graph), next(iter(graph.tensors))
    with pytest.raises(ModelError, match=f"missing {name}"):
        facts.parse(content, {own: each for own, each in graph.tensors.items() if own != name})
    with pytest.raises(ModelError, match="unexpected other"):
        facts.parse(content, {**graph.tensors, "other": np.zeros(1)})
    beside = replace(graph, tensors={**graph.tensors, "other": np.zeros(1)})
    assert "other" in facts.parse(facts.dump(beside), beside.tensors).tensors
