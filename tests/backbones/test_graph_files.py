"""A graph as one file beside its weights: all that is known of it comes back, and it is that of the graph itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from graft.backbones.graph import TOP, Graph, dump, parse, truncate_graph
from graft.errors import ModelError
from graft.torch.restore import build_random_backbone


@pytest.fixture(scope="module")
def graph() -> Graph:
    return build_random_backbone("test_resnet").graph


def known(graph: Graph) -> tuple[object, ...]:
    return graph.stages, graph.top_is_average, graph.shapes, graph.identity, graph.tensors.keys()


def test_what_was_dumped_comes_back_to_the_byte(graph: Graph) -> None:
    content = dump(graph)
    read = parse(content, graph.tensors)
    assert known(read) == known(graph)
    assert dump(read) == content
    assert len(onnx.ModelProto.FromString(content).metadata_props) == 1


def test_a_graph_that_was_read_and_shortened_says_what_is_left_of_it(graph: Graph) -> None:
    read = parse(dump(graph), graph.tensors)
    short = truncate_graph(read, 2)
    again = parse(dump(short), short.tensors)
    assert known(again) == known(short) == known(truncate_graph(graph, 2))
    assert TOP not in again.shapes
    assert (graph.top_is_average, again.top_is_average) == (True, False)
    assert list(again.runner.run(np.zeros((1, 3, 160, 160), np.uint8), list(again.shapes))[0].shape[1:])


def test_tensors_are_all_that_there_were_and_no_others(graph: Graph) -> None:
    content, name = dump(graph), next(iter(graph.tensors))
    with pytest.raises(ModelError, match=f"missing {name}"):
        parse(content, {own: each for own, each in graph.tensors.items() if own != name})
    with pytest.raises(ModelError, match="unexpected other"):
        parse(content, {**graph.tensors, "other": np.zeros(1)})
    beside = replace(graph, tensors={**graph.tensors, "other": np.zeros(1)})
    assert "other" in parse(dump(beside), beside.tensors).tensors
