"""A classifier as one file that a client runs without graft, checked before it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from graft.backbones import graph as graphs
from graft.backbones import pixels, wire
from graft.backbones.fold import folded
from graft.data.dataset import Dataset
from graft.errors import DataError, ExportError
from graft.jobs import outputs
from graft.jobs.direct import opened
from graft.jobs.export import openvino, parity, program, quantise, web
from graft.jobs.export.evidence import MADE, Evidence, gathered
from graft.jobs.export.formats import FLOAT32, INT8, ONNX, OPENVINO, TORCH, WEB, chosen
from graft.jobs.export.parity import Described
from graft.jobs.export.witnesses import witnesses
from graft.model import pictures
from graft.model.classifier import Classifier
from graft.model.composed import composed
from graft.progress import Watch, unwatched
from graft_runtime import contract
from graft_runtime.contract import Export, ModelError
from graft_runtime.predictor import Predictor

WRITTEN = {ONNX: "ONNX", OPENVINO: "ONNX", TORCH: "a program of torch.export", WEB: "ONNX"}
LOSS = 0.01  # of right answers that int8 may lose, unless told otherwise
MOST_BYTES = 2**31 - 2**20  # protobuf's limit, with room for the description


def export(
    classifier: str | Path | Classifier,
    output: str | Path,
    *,
    to: str | None = None,
    int8: bool = False,
    check: Any = None,
    calibrate: Any = None,
    allow_loss: float = LOSS,
    evidence: Any = None,
    force: bool = False,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Write a classifier, that saved in a folder, or a network by name, as one file; give what came of the check.

    `to` is onnx, openvino (the same file), torch (a program of torch.export) or web: a folder of static files that
    answers in a browser without a server, the web page, that file and onnxruntime-web, which npm fetches once; it is
    run in Node as well. Without `to`, it is what the name of the file says. The file is run by graft_runtime, OpenVINO
    or PyTorch on pictures from the bytes of their files and must answer as the classifier does: each probability within
    1e-3 and no other answer; with `int8`, at most `allow_loss` of the right answers may be lost. `check` are pictures
    as `graft.read_source` takes them, of which those count that the classifier was not trained on; without it pictures
    are made. `calibrate` are pictures for the ranges of int8; without it, others of `check`. `evidence` are the photos
    that it was trained on: the file then holds names, labels and thumbnails of those that it compares pictures with,
    and its answers name the nearest. Without it no file holds any of that.

    Raises ExportError, and writes nothing, where the file answers differently or the network cannot be exported;
    DataError for evidence without a training picture; OutputError rather than overwrite a file, or, with `force`,
    rather than one that is no export.

    >>> export("model/", "flowers.onnx", check="photos/")["parity"]["changed"]  # doctest: +SKIP
    0
    """
    began, path = time.monotonic(), outputs.place_of(output)
    kind = chosen(to, path, int8, blind=check is None and calibrate is None)
    _refuse(kind, path, force)
    browser = web.runtime(watch) if kind == WEB else None
    judge = opened(classifier)
    shown = () if evidence is None else witnesses(judge, evidence, watch)
    given = gathered(judge, check, watch)
    others = given.others if calibrate is None else gathered(judge, calibrate, watch).others
    names, described = _made(judge, kind, _prepared(judge, others, watch) if int8 else None)
    about = Export(INT8 if int8 else FLOAT32, _strays(judge))
    found = _compared(judge, kind, described(about, shown), given, watch)
    why = found.close(allow_loss) if int8 else found.exact()
    if why:
        raise ExportError(_refused(why, int8, given, found.runtime))
    about = Export(about.precision, about.strays, found.as_dict())
    content = described(about, shown)
    if browser:
        found = web.write(path, content, browser, judge, given, watch)
    else:
        outputs.write(path, content)
    return {
        "output": str(path),
        "format": kind,
        "precision": about.precision,
        "classes": len(judge.classes),
        "outputs": list(names),
        "parity": found.as_dict(),
        "evidence": {
            "pictures": len(shown),
            "thumbnails": sum(each.thumbnail is not None for each in shown),
            "bytes": len(content) - len(described(about)) if shown else 0,
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def _refuse(kind: str, path: Path, force: bool) -> None:
    """A place that may not be written to, before any work is done. Raises OutputError."""
    if kind == WEB:
        web.refuse(path, force)
    else:
        outputs.check(path, _is_export, force=force)


def _made(
    classifier: Classifier, kind: str, samples: Iterator[NDArray[np.uint8]] | None
) -> tuple[tuple[str, ...], Described]:
    """The names of the outputs, and the file by its description; with samples in 8 bits. Raises ExportError."""
    try:
        if kind == TORCH:
            return program.made(classifier)
        network = _network(classifier)
    except Exception as error:  # an exporter fails in many ways, with errors of its own, PyTorch's and ONNX Runtime's
        raise ExportError(
            f"The network {classifier.card.backbone['name']!r} cannot be written as {WRITTEN[kind]}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}. "
            "Networks of convolutions and vision transformers can; choose another --backbone."
        ) from error
    if samples is not None:
        network = quantise.int8(network, samples)
    model = _serialised(pixels.before(classifier.network.preprocess, network))
    return tuple(output.name for output in network.graph.output), partial(contract.described, model, classifier.card)


def _prepared(classifier: Classifier, data: Dataset, watch: Watch) -> Iterator[NDArray[np.uint8]]:
    """The pictures that can be read, as the network sees them."""
    prepare = partial(pictures.prepared, classifier.network.preprocess)
    count = 0
    for each in pictures.each(data, prepare, watch):
        if each.made is not None:
            count += 1
            yield each.made
    if not count:
        raise DataError(f"Not one of the {len(data):,} pictures to find the ranges of int8 on can be read.")


def _network(classifier: Classifier) -> ModelProto:
    """The graph from prepared images to all answers."""
    known = classifier.memory.known if classifier.memory else None
    whole = composed(classifier.network, classifier.card, known)
    names = set(wire.outputs(whole.structure))
    return folded(graphs.inlined(graphs.only(whole, [name for name in contract.OUTPUTS if name in names])))


def _serialised(model: ModelProto) -> bytes:
    size = model.ByteSize()
    if size > MOST_BYTES:
        raise ExportError(f"The network has {size / 1e9:.1f} GB, and one ONNX file holds 2 GB. Choose a smaller one.")
    return model.SerializeToString()


def _strays(classifier: Classifier) -> tuple[float, ...]:
    """Sorted scores of pictures that were not learned from; none where the classifier knows no unknown."""
    known = classifier.memory.known if classifier.memory else None
    return () if known is None else tuple(known.strays.tolist())


def _compared(classifier: Classifier, kind: str, file: bytes, given: Evidence, watch: Watch) -> parity.Parity:
    try:
        stream, run, runtime = FORMATS[kind](file)
    except (ModelError, RuntimeError) as error:
        raise ExportError(f"The file that was made does not run: {error}.") from error

    def alone(image: NDArray[np.uint8]) -> None:
        run(image[None])

    return replace(parity.compared(classifier, stream, alone, len(file), given, watch), runtime=runtime)


def _opened(file: bytes) -> tuple[parity.Answering, Callable[[NDArray[np.uint8]], Any], str]:
    """The file at a client's."""
    predictor = Predictor(file)
    return predictor.stream, predictor.run, f"onnxruntime {onnxruntime.__version__}"


FORMATS = {
    ONNX: _opened,
    OPENVINO: openvino.opened,
    TORCH: program.opened,
    WEB: _opened,
}  # and what runs a file of each


def _refused(why: str, int8: bool, given: Evidence, runtime: str) -> str:
    pictures = "pictures that were made for the check" if given.origin == MADE else f"your pictures ({given.origin})"
    advice = (
        "Export without --int8, or allow more with --allow-loss."
        if int8
        else f"This is a fault of graft or of {runtime}; please report it with the name of the network."
    )
    return f"The export does not answer as the classifier does: on {len(given.data)} {pictures} {why}. {advice}"


def _is_export(path: Path) -> bool:
    try:
        contract.read(contract.content(path))
    except ModelError:
        return program.is_ours(path)
    return True
