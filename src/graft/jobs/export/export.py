"""A classifier as one file that a client runs without PyTorch, checked before it is written."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from graft.data.dataset import Dataset
from graft.errors import ExportError, UsageError
from graft.jobs import outputs
from graft.jobs.direct import opened
from graft.jobs.export import parity, quantise, web
from graft.jobs.export.evidence import MADE, Evidence, gathered
from graft.jobs.export.witnesses import witnesses
from graft.model import pictures
from graft.model.answering import Answering
from graft.model.classifier import Classifier
from graft.networks import graph, pixels
from graft.progress import Watch, unwatched
from graft_runtime import contract
from graft_runtime.contract import Export, ModelError
from graft_runtime.predictor import Predictor

FLOAT32, INT8 = "float32", "int8"
ONNX, WEB = FORMATS = ("onnx", "web")
LOSS = 0.01  # of right answers that int8 may lose, unless told otherwise
MOST_BYTES = 2**31 - 2**20  # protobuf's limit, with room for the description


def export(
    classifier: str | Path | Classifier,
    output: str | Path,
    *,
    to: str = ONNX,
    int8: bool = False,
    check: Any = None,
    calibrate: Any = None,
    allow_loss: float = LOSS,
    evidence: Any = None,
    force: bool = False,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Write a classifier, that saved in a folder, or a network by name, as one ONNX file; give what came of the check.

    With `to="web"`, write a folder of static files that answers in a browser, without a server: the web page, that file
    and onnxruntime-web, which npm fetches once. What came of the check is then that of the folder's own files in Node.

    The file is run by graft_runtime on pictures from the bytes of their files and must answer as the classifier does:
    each probability within 1e-3 and no other answer; with `int8`, at most `allow_loss` of the right answers may be
    lost. `check` are pictures as `graft.read_source` takes them, of which those count that the classifier was not
    trained on; without it pictures are made. `calibrate` are pictures for the ranges of int8; without it, others of
    `check`. `evidence` are the photos that it was trained on: the file then holds names, labels and thumbnails of those
    that it compares pictures with, and its answers name the nearest. Without it no file holds any of that.

    Raises ExportError, and writes nothing, where the file answers differently or the network cannot be exported;
    DataError for evidence without a training picture; OutputError rather than overwrite a file, or, with `force`,
    rather than one that is no export.

    >>> export("model/", "flowers.onnx", check="photos/")["parity"]["changed"]  # doctest: +SKIP
    0
    """
    began, path = time.monotonic(), Path(output)
    _possible(to, int8, check is None and calibrate is None)
    if to == WEB:
        web.refuse(path, force)
    else:
        outputs.check(path, _is_export, force=force)
    runtime = web.runtime(watch) if to == WEB else None
    judge = opened(classifier)
    shown = () if evidence is None else witnesses(judge, evidence, watch)
    given = gathered(judge, check, watch)
    network = _traced(judge)
    if int8:
        samples = given.others if calibrate is None else gathered(judge, calibrate, watch).others
        network = _whole_numbers(judge, network, samples, watch)
    model = _serialised(pixels.before(judge.network.preprocess, network))
    about = Export(INT8 if int8 else FLOAT32, _strays(judge))
    found = _compared(judge, contract.described(model, judge.card, about, shown), given, watch)
    if why := found.close(allow_loss) if int8 else found.exact():
        raise ExportError(_refused(why, int8, given))
    about = Export(about.precision, about.strays, found.as_dict())
    content, bare = (contract.described(model, judge.card, about, held) for held in (shown, ()))
    if runtime:
        found = web.write(path, content, runtime, judge, given, watch)
    else:
        outputs.write(path, content)
    return {
        "output": str(path),
        "format": to,
        "precision": about.precision,
        "classes": len(judge.classes),
        "outputs": [output.name for output in network.graph.output],
        "parity": found.as_dict(),
        "evidence": {
            "pictures": len(shown),
            "thumbnails": sum(each.thumbnail is not None for each in shown),
            "bytes": len(content) - len(bare),
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def _possible(to: str, int8: bool, blind: bool) -> None:
    if to not in FORMATS:
        raise UsageError(f"An export is to {' or '.join(FORMATS)}. Got {to!r}.")
    if int8 and to == WEB:
        raise UsageError("In browsers 8-bit numbers are slower than float32 and answer otherwise. Leave --int8 out.")
    if int8 and blind:
        raise UsageError("int8 needs pictures, to find the ranges of numbers on: name them with --check photos/.")


def _traced(classifier: Classifier) -> ModelProto:
    """The graph from prepared pictures to all answers. Raises ExportError."""
    answering = Answering(classifier).eval().cpu()
    side = classifier.network.preprocess.size
    example = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    try:
        return graph.traced(answering, example, answering.outputs)
    except Exception as error:  # an exporter fails in many ways, with errors of its own, PyTorch's and ONNX Runtime's
        raise ExportError(
            f"The network {classifier.card.backbone['name']!r} cannot be written as ONNX: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}. "
            "Networks of convolutions and vision transformers can; choose another --backbone."
        ) from error


def _whole_numbers(classifier: Classifier, network: ModelProto, samples: Dataset, watch: Watch) -> ModelProto:
    """The same graph in 8-bit numbers, whose ranges are found on these pictures."""
    prepare = partial(pictures.prepared, classifier.network.preprocess)
    made = (each.made for each in pictures.each(samples, prepare, watch))
    return quantise.int8(network, (image for image in made if image is not None))


def _serialised(model: ModelProto) -> bytes:
    size = model.ByteSize()
    if size > MOST_BYTES:
        raise ExportError(f"The network has {size / 1e9:.1f} GB, and one ONNX file holds 2 GB. Choose a smaller one.")
    return model.SerializeToString()


def _strays(classifier: Classifier) -> tuple[float, ...]:
    """Sorted scores of pictures that were not learned from; none where the classifier knows no unknown."""
    known = classifier.memory.known if classifier.memory else None
    return () if known is None else tuple(known.strays.tolist())


def _compared(classifier: Classifier, file: bytes, given: Evidence, watch: Watch) -> parity.Parity:
    try:
        predictor = Predictor(file)
    except ModelError as error:
        raise ExportError(f"The file that was made does not run: {error}.") from error

    def alone(image: NDArray[np.uint8]) -> None:
        predictor.run(image[None])

    return parity.compared(classifier, predictor.stream, alone, len(file), given, watch)


def _refused(why: str, int8: bool, given: Evidence) -> str:
    pictures = "pictures that were made for the check" if given.origin == MADE else f"your pictures ({given.origin})"
    advice = (
        "Export without --int8, or allow more with --allow-loss."
        if int8
        else "This is a fault of graft or of ONNX Runtime; please report it with the name of the network."
    )
    return f"The export does not answer as the classifier does: on {len(given.data)} {pictures} {why}. {advice}"


def _is_export(path: Path) -> bool:
    try:
        contract.read(path.read_bytes())
    except ModelError:
        return False
    return True
