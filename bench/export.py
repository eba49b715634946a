"""Exported files against the classifiers that they were made from: answers, speed, size.

python bench/export.py ../shared/data [--models FOLDER] [--sets flowers5 gtsrb43_sub]

Classifiers are trained with all defaults; in FOLDER they are kept for the next time. Needs the extra `openvino`, Node
and npm.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.jobs.export.export import OPENERS, export
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load
from graft.torch.restore import network_to_module
from graft_runtime.predictor import Predictor
from graft_runtime.predictor import load as exported

SIZE, BATCHES, TURNS = (300, 400), (1, 32), 7
MESSY = "messy"
KINDS = {  # the options of each export, and the end of its file's name
    "onnx": ({"to": "onnx"}, ".onnx"),
    "onnx, int8": ({"to": "onnx", "int8": True}, "-8.onnx"),
    "openvino": ({"to": "openvino"}, "-v.onnx"),
    "torch": ({"to": "torch"}, ".pt2"),
    "web": ({"to": "web"}, "-web"),
}


def main() -> None:
    """Print the tables of parity, of odd files and of speed."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--sets", nargs="+", default=["flowers5", "gtsrb43_sub"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        kept = options.models or Path(place)
        models = {name: trained(options.data / name, kept / name) for name in options.sets}
        print("| data set | export | in | images | worst probability | changed answers | accuracy, before | MB |")
        print("|---|---|---|---|---|---|---|---|")
        for name, model in models.items():
            for kind, (how, end) in KINDS.items():
                file = Path(place, name + end)
                row(name, kind, export(model, file, check=options.data / name, allow_loss=1.0, **how))
        first = options.sets[0]
        odd(models[first], {kind: Path(place, first + KINDS[kind][1]) for kind in OPENERS}, options.data / MESSY)
        speeds(models[first], *(exported(Path(place, first + KINDS[kind][1])) for kind in ("onnx", "onnx, int8")))


def trained(source: Path, folder: Path) -> Classifier:
    """The classifier of a data set, trained unless it lies in the folder."""
    return load(folder) if folder.exists() else fit(source, folder)


def row(name: str, kind: str, report: dict[str, Any]) -> None:
    """What came of one export."""
    found = report["parity"]
    low, high = (100 * end for end in found["interval"])
    loss = f"{found['exported']:.1%}, {found['trained']:.1%} ({0 - high:+.1f} to {0 - low:+.1f} points)"
    cells = [name, kind, found["runtime"], found["images"], f"{found['worst']:.1e}", found["changed"], loss]
    print("|", " | ".join(map(str, cells)), f"| {found['size'] / 1e6:.1f} |", flush=True)


def odd(classifier: Classifier, exports: dict[str, Path], folder: Path) -> None:
    """Every file of the folder that is no text, by all: whether faults and answers agree."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".csv", ".md", ".txt"))
    want, got = classifier.predict(files), exported(exports["onnx"]).predict(files)
    assert [each.fault for each in want] == [each.fault for each in got]
    whole = [(file, each) for file, each in zip(files, want, strict=True) if not each.fault]
    print(f"\n{folder.name}: {len(files)} files, {len(files) - len(whole)} with the same fault in both; the other ")
    print(f"{len(whole)}:\n\n| export | worst probability | changed answers |\n|---|---|---|")
    for kind in ("onnx", "openvino", "torch"):
        said = OPENERS[kind](exports[kind].read_bytes())[0](file.read_bytes() for file, _ in whole)
        pairs = [(one, other) for (_, one), other in zip(whole, said, strict=True)]
        worst = max(abs(a - b) for pair in pairs for a, b in zip(*map(chances, pair), strict=True))
        changed = sum((one.label, one.unknown) != (other.label, other.unknown) for one, other in pairs)
        print(f"| {kind} | {worst:.1e} | {changed} |", flush=True)
    print()


def chances(prediction: Any) -> list[float]:
    return list(prediction.probabilities.values())


def speeds(classifier: Classifier, float32: Predictor, int8: Predictor) -> None:
    """Decoded images to answers, turn and turn about; the median."""
    network, preprocess = network_to_module(classifier.network, classifier.card), classifier.network.preprocess

    def eager(images: np.ndarray) -> None:
        with torch.inference_mode():
            network(torch.from_numpy(np.stack([preprocess.prepare(image) for image in images]))).softmax(1)

    ways: dict[str, Callable[[np.ndarray], object]] = {"PyTorch": eager, "float32": float32.run, "int8": int8.run}
    print(f"| images of {SIZE[0]} x {SIZE[1]} at once | {' | '.join(f'{name}, ms each' for name in ways)} |")
    print("|---|---|---|---|")
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, *SIZE, 3), dtype=np.uint8)
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                began = time.perf_counter()
                way(images)
                spent[name].append((time.perf_counter() - began) / batch * 1e3)
        middle = {name: statistics.median(times[1:]) for name, times in spent.items()}
        cells = [f"{each:.1f} ({middle['PyTorch'] / each:.1f}x)" for each in middle.values()]
        print(f"| {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
