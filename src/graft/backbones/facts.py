"""What is known of a graph, as a property of its structure: so that a graph on disk is one file beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import wire
from graft.backbones.graph import LAST, TOP, Graph, Stage, key, only
from graft.errors import ModelError
from graft_runtime import protobuf

FACTS = "graft.graph"  # the property


def completed(graph: Graph, size: int) -> Graph:
    """The graph with the shapes of its outputs, found on one black image of `size` pixels, and its identity."""
    outputs = wire.outputs(graph.structure)
    found = graph.running.run(np.zeros((1, 3, size, size), np.uint8), outputs)
    shapes = {name: tuple(each.shape[1:]) for name, each in zip(outputs, found, strict=True)}
    return replace(graph, shapes=shapes, identity=key(graph))


def dump(graph: Graph) -> bytes:
    """The structure with what is known of the graph."""
    stages = [[stage.name, list(stage.shape), stage.parameters] for stage in graph.stages]
    shapes = {name: list(shape) for name, shape in graph.shapes.items()}
    beside = sorted(graph.tensors.keys() - wire.external(graph.structure).keys())
    facts = {"identity": graph.identity, "averaged": graph.averaged, "stages": stages, "shapes": shapes}
    return graph.structure + protobuf.entry(FACTS, json.dumps({**facts, "beside": beside}))


def parse(content: bytes, tensors: Mapping[str, NDArray[np.generic]]) -> Graph:
    """The graph that was dumped, with its weights: all that it had, and no others. Raises ModelError for what is none.

    Whether they are of its shapes is seen when it is opened.
    """
    try:
        files, own = wire.reads_files(content), wire.external(content)
        facts = json.loads(protobuf.properties(content)[FACTS])
        stages = tuple(Stage(str(name), _shape(shape), _count(count)) for name, shape, count in facts["stages"])
        shapes = {str(name): _shape(shape) for name, shape in facts["shapes"].items()}
        identity, averaged = str(facts["identity"]), facts["averaged"] is True
        wanted = own.keys() | set(map(str, facts["beside"]))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"it is no graph that graft wrote ({type(error).__name__}: {error})") from error
    if files:
        raise ModelError("some of its tensors lie in other files, which a graph of graft never does")
    if odd := sorted(wanted ^ tensors.keys()):
        raise ModelError(f"{'missing' if odd[0] in wanted else 'unexpected'} {odd[0]}")
    return Graph(wire.without(content, FACTS), tensors, stages, averaged, shapes, identity)


def shortened(graph: Graph, count: int) -> Graph:
    """The graph with its first stages alone, so many of them: what early features leave of it."""
    kept = {stage.name for stage in graph.stages[:count]}
    outputs = [name for name in graph.shapes if name.partition("/")[2] in kept and name not in (TOP, LAST)]
    return replace(only(graph, outputs), averaged=False, shapes={name: graph.shapes[name] for name in outputs})


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_count(each) for each in value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**40:
        raise ValueError(f"{value!r} is no size")
    return value
