"""Exports that are wrong in the ways in which exports are: the graph of the preprocessing, bent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from graft.backbones.preprocess import Preprocess, prepend_preprocess

HONEST = prepend_preprocess


def swapped(preprocess: Preprocess, network: onnx.ModelProto) -> onnx.ModelProto:
    whole = HONEST(preprocess, network)
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order")
    whole.graph.initializer.append(order)
    for node in whole.graph.node:
        node.input[:] = ["bgr" if name == "image" else name for name in node.input]
    whole.graph.node.insert(0, onnx.helper.make_node("Gather", ["image", "order"], ["bgr"], axis=3))
    return whole


def wrong_mean(preprocess: Preprocess, network: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in network.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.size == 3 and np.allclose(values.ravel() / 255, preprocess.mean, atol=1e-4):
            tensor.CopyFrom(onnx.numpy_helper.from_array((values * 0.8).astype(np.float32), tensor.name))
    return HONEST(preprocess, network)


def squashed(preprocess: Preprocess, network: onnx.ModelProto) -> onnx.ModelProto:
    return HONEST(replace(preprocess, crop="squash", resize=preprocess.size), network)


def other_kernel(preprocess: Preprocess, network: onnx.ModelProto) -> onnx.ModelProto:
    other = "bicubic" if preprocess.interpolation == "bilinear" else "bilinear"
    return HONEST(replace(preprocess, interpolation=other), network)
