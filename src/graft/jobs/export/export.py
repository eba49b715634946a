"""Export a classifier as one file that runs without graft: built, made smaller, and checked before it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from graft.backbones import graph as graphs
from graft.backbones import preprocess, wire
from graft.backbones.preprocess import PREPARED
from graft.data.dataset import DIGEST, Dataset, compute_digest, decode_pixels
from graft.data.readers.source import read_source
from graft.errors import DataError, ExportError
from graft.features.embed import load_each, prepare_image
from graft.jobs import outputs
from graft.jobs.direct import open_classifier
from graft.jobs.export import parity, web
from graft.jobs.export.parity import MADE, BuildFile, ParityImages, collect_parity_images
from graft.jobs.outputs import FLOAT32, INT8, ONNX, OPENVINO, TORCH, WEB, choose_format
from graft.model.classifier import Classifier
from graft.model.network import BACKBONE, build_classifier_graph
from graft.progress import ProgressWrapper, no_progress
from graft_runtime import contract
from graft_runtime.contract import Export, ModelFileError, TrainingImage
from graft_runtime.predictor import Predictor
from graft_runtime.thumbnail import make_thumbnail

FORMAT_TITLES = {ONNX: "ONNX", OPENVINO: "ONNX", TORCH: "a program of torch.export", WEB: "ONNX"}
DEFAULT_ALLOWED_LOSS = 0.01  # share of correct predictions that int8 may lose
MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's limit, with room for the description
SIDE = 96  # pixels along the longer side of a thumbnail: 3 kB


def export(
    classifier: str | Path | Classifier,
    output: str | Path,
    *,
    to: str | None = None,
    int8: bool = False,
    check: Any = None,
    calibrate: Any = None,
    allow_loss: float = DEFAULT_ALLOWED_LOSS,
    evidence: Any = None,
    force: bool = False,
    watch: ProgressWrapper = no_progress,
) -> dict[str, Any]:
    """Export a classifier, one saved in a folder, or a network by name, as one file; return a report of the check.

    `to` is onnx, openvino (the same file), torch (a program of torch.export) or web: a folder of static files that
    predicts in a browser without a server, with a web page, the ONNX file and onnxruntime-web, which npm fetches once;
    it is run in Node as well. Without `to` the file's ending decides. The file is run by graft_runtime, OpenVINO or
    PyTorch on images from the bytes of their files and must give the classifier's predictions: each probability within
    1e-3 and no other class; with `int8`, at most `allow_loss` of the correct predictions may be lost. `check` are
    images as `graft.read_source` takes them, of which those are used that the classifier was not trained on; without it
    images are generated. `calibrate` are images for the ranges of int8; without it, others of `check`. `evidence` are
    the photos that it was trained on: the file then holds names, labels and thumbnails of the training images that it
    compares with, and its predictions name the nearest. Without it a file holds none of these.

    Raises ExportError, and writes nothing, where the predictions differ or the network cannot be exported; DataError
    for evidence without a training image; OutputError for a file that exists or, with `force`, one that is no export.

    >>> export("model/", "flowers.onnx", check="photos/")["parity"]["changed"]  # doctest: +SKIP
    0
    """
    began, path = time.monotonic(), outputs.resolve_output(output)
    kind = choose_format(to, path, int8, without_images=check is None and calibrate is None)
    _check_output(kind, path, force)
    browser = web.fetch_runtime(watch) if kind == WEB else None
    opened_classifier = open_classifier(classifier)
    neighbours = () if evidence is None else collect_neighbours(opened_classifier, evidence, watch)
    parity_images = collect_parity_images(opened_classifier, check, watch)
    others = (
        parity_images.calibration_data
        if calibrate is None
        else collect_parity_images(opened_classifier, calibrate, watch).calibration_data
    )
    names, build_file = _build_export(
        opened_classifier, kind, _iter_prepared(opened_classifier, others, watch) if int8 else None
    )
    metadata = Export(INT8 if int8 else FLOAT32, _heldout_scores(opened_classifier))
    found = _compare_file(opened_classifier, kind, build_file(metadata, neighbours), parity_images, watch)
    failure = found.find_excess_loss(allow_loss) if int8 else found.find_mismatch()
    if failure:
        raise ExportError(_failure_message(failure, int8, parity_images, found.runtime))
    metadata = Export(metadata.precision, metadata.strays, found.as_dict())
    content = build_file(metadata, neighbours)
    if browser:
        found = web.write(path, content, browser, opened_classifier, parity_images, watch)
    else:
        outputs.write(path, content)
    return {
        "output": str(path),
        "format": kind,
        "precision": metadata.precision,
        "classes": len(opened_classifier.classes),
        "outputs": list(names),
        "parity": found.as_dict(),
        "evidence": {
            "images": len(neighbours),
            "thumbnails": sum(each.thumbnail is not None for each in neighbours),
            "bytes": len(content) - len(build_file(metadata)) if neighbours else 0,
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def _check_output(kind: str, path: Path, force: bool) -> None:
    """Raise OutputError for a path that may not be written to, before any work is done."""
    if kind == WEB:
        web.check_output(path, force)
    else:
        outputs.check_output(path, _is_export, force=force)


def _build_export(
    classifier: Classifier, kind: str, samples: Iterator[NDArray[np.uint8]] | None
) -> tuple[tuple[str, ...], BuildFile]:
    """Return the names of the outputs, and what builds the file; with samples in int8. Raises ExportError."""
    try:
        if kind == TORCH:
            return parity.build_program(classifier)
        network = _build_graph(classifier)
    except Exception as error:  # an exporter fails in many ways, with errors of its own, PyTorch's and ONNX Runtime's
        raise ExportError(
            f"The network {classifier.card.backbone['name']!r} cannot be written as {FORMAT_TITLES[kind]}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}. "
            "Networks of convolutions and vision transformers can; choose another --backbone."
        ) from error
    if samples is not None:
        network = quantise_int8(network, samples)
    model = _serialise(preprocess.prepend_preprocess(classifier.network.preprocess, network))
    return tuple(output.name for output in network.graph.output), partial(
        contract.append_description, model, classifier.card
    )


def _iter_prepared(classifier: Classifier, data: Dataset, watch: ProgressWrapper) -> Iterator[NDArray[np.uint8]]:
    """Yield the readable images as the network receives them."""
    prepare = partial(prepare_image, classifier.network.preprocess)
    count = 0
    for each in load_each(data, prepare, watch):
        if each.value is not None:
            count += 1
            yield each.value
    if not count:
        raise DataError(f"Not one of the {len(data):,} images to find the ranges of int8 on can be read.")


def _build_graph(classifier: Classifier) -> ModelProto:
    """Return the graph from preprocessed images to all outputs."""
    known = classifier.memory.known if classifier.memory else None
    whole = build_classifier_graph(classifier.network, classifier.card, known)
    names = set(wire.output_names(whole.structure))
    return fold_constants(
        graphs.inline_weights(graphs.prune_graph(whole, [name for name in contract.OUTPUTS if name in names]))
    )


def _serialise(model: ModelProto) -> bytes:
    size = model.ByteSize()
    if size > MAX_ONNX_BYTES:
        raise ExportError(f"The network has {size / 1e9:.1f} GB, and one ONNX file holds 2 GB. Choose a smaller one.")
    return model.SerializeToString()


def _heldout_scores(classifier: Classifier) -> tuple[float, ...]:
    """Return the sorted held-out scores of unknown; () for a classifier without that detector."""
    known = classifier.memory.known if classifier.memory else None
    return () if known is None else tuple(known.strays.tolist())


def _compare_file(
    classifier: Classifier, kind: str, file: bytes, parity_images: ParityImages, watch: ProgressWrapper
) -> parity.Parity:
    try:
        stream, run, runtime = OPENERS[kind](file)
    except (ModelFileError, RuntimeError) as error:
        raise ExportError(f"The file that was made does not run: {error}.") from error

    def run_one(image: NDArray[np.uint8]) -> None:
        run(image[None])

    found = parity.compare_export(classifier, stream, run_one, len(file), parity_images, watch)
    return replace(found, runtime=runtime)


def _open_onnx(file: bytes) -> tuple[parity.AnswerStream, Callable[[NDArray[np.uint8]], Any], str]:
    """Open the file as a client does, with graft_runtime."""
    predictor = Predictor(file)
    return predictor.stream, predictor.run, f"onnxruntime {onnxruntime.__version__}"


OPENERS = {  # how a file of each format is run for the check; web is run in Node as well, see web.write
    ONNX: _open_onnx,
    OPENVINO: parity.open_openvino,
    TORCH: parity.open_program,
    WEB: _open_onnx,
}


def _failure_message(failure: str, int8: bool, parity_images: ParityImages, runtime: str) -> str:
    images = (
        "images that were made for the check"
        if parity_images.origin == MADE
        else f"your images ({parity_images.origin})"
    )
    advice = (
        "Export without --int8, or allow more with --allow-loss."
        if int8
        else f"This is a fault of graft or of {runtime}; please report it with the name of the network."
    )
    return (
        f"The export does not answer as the classifier does: on {len(parity_images.data)} {images} {failure}. {advice}"
    )


def _is_export(path: Path) -> bool:
    try:
        contract.read_description(contract.read_file(path))
    except ModelFileError:
        return parity.is_program_of_ours(path)
    return True


# --- training images that the file shows as evidence ------------------------------------------------------------------


def collect_neighbours(classifier: Classifier, source: Any, watch: ProgressWrapper) -> tuple[TrainingImage, ...]:
    """Return the training images whose features the classifier stores, with thumbnails of those in the source.

    They are found by name, and get a thumbnail only if their content was trained on: a file may have changed since.
    Raises ExportError for a classifier that stores none, DataError for a source that holds none of them.
    """
    memory = classifier.memory
    if memory is None or memory.known is None or not len(memory.known.features):
        raise ExportError(
            "This classifier stores no training images to show as evidence: it was not trained by `graft fit`, or "
            "has so many classes that one image of each finds no room. Leave --evidence out."
        )
    known = memory.known
    data = read_source(source, classifier.classes, watch=watch)
    rows = {data.name(row): row for row in reversed(range(len(data)))}
    found_names = [name for name in known.names if name in rows]

    def render(raw: bytes | NDArray[np.uint8]) -> tuple[bytes, str]:
        return compute_digest(raw), make_thumbnail(decode_pixels(raw, SIDE), SIDE).base64_text

    images = load_each(data.take(np.array([rows[name] for name in found_names], np.intp)), render, watch)
    found = {found_names[each.row]: each.value for each in images if each.value}
    is_trained = memory.find_trained(
        np.frombuffer(b"".join(own for own, _ in found.values()), np.uint8).reshape(-1, DIGEST)
    )
    shown = {name: code for (name, (_, code)), same in zip(found.items(), is_trained, strict=True) if same}
    if not shown:
        raise DataError(
            f"Not one of the {len(known.names):,} training images of this classifier, such as {known.names[0]}, is "
            f"in {source if isinstance(source, str | Path) else 'this source'}. Name the photos that it was trained on."
        )
    labels = (classifier.label_names(label) for label in known.labels)
    return tuple(TrainingImage(name, own, shown.get(name)) for name, own in zip(known.names, labels, strict=True))


# --- smaller files ----------------------------------------------------------------------------------------------------

MIN_HALVED_SIZE = 10_000  # numbers of a tensor from which on it is stored as float16


def fold_constants(model: ModelProto) -> ModelProto:
    """Fold constants and batch norms; the result has only ONNX's own operators, so that any runtime can read it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors only; it warns of what it leaves out
    with TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return store_as_float16(onnx.load(path))


def store_as_float16(model: ModelProto) -> ModelProto:
    """Store every large tensor that float16 holds without loss as float16."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < MIN_HALVED_SIZE:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if (half == values).all():
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}/half"))
            model.graph.node.insert(0, onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    return model


# --- int8 -------------------------------------------------------------------------------------------------------------

PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else it warns; `fold_constants` has done that already
HEAVY = ("Conv", "MatMul", "Gemm")


def quantise_int8(network: ModelProto, prepared: Iterator[NDArray[np.uint8]]) -> ModelProto:
    """Quantise a graph to int8: static, QDQ, with a scale per channel of the weights.

    The ranges of the activations come from `prepared` images [3, size, size]. These stay in float32: the first third of
    the layers, which hold few of the weights and whose errors propagate through all others; depthwise convolutions,
    whose channels differ much in range; products of two activations; and the head and all after it, as a head on
    several layers amplifies small differences. With these in int8 too, many times as many predictions change and little
    time is gained.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            image = next(prepared, None)
            return None if image is None else {PREPARED: image[None]}

    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.helper.set_model_props(network, PREPROCESSED)
        onnx.save(network, before)
        quantize_static(
            before,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(HEAVY),
            nodes_to_exclude=_select_float32_nodes(network),
        )
        quantised = onnx.load(after)
    del quantised.metadata_props[:]
    return quantised


def _select_float32_nodes(network: ModelProto) -> list[str]:
    """Return the names of the layers that stay in float32."""
    weights = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    heavy = [node for node in network.graph.node if node.op_type in HEAVY]
    inside = [node for node in heavy if node.name.startswith(BACKBONE) and node.input[1] in weights]
    late = inside[len(inside) // 3 :]
    quantised = {node.name for node in late if not _depthwise(node, weights[node.input[1]])}
    return [node.name for node in heavy if node.name not in quantised]


def _depthwise(node: NodeProto, shape: Sequence[int]) -> bool:
    return node.op_type == "Conv" and shape[1] == 1 and shape[0] > 1
