"""Tuned classifiers as exported files: the same answers, and unknown images told as well as by the saved folder.

GRAFT_WEIGHTS=../shared/weights python bench/tuned.py ../shared/data [--models FOLDER] [--only TEXT]

Each strategy trains briefly on rsscn7_sub; in FOLDER the classifiers are kept for the next time. Then every test image,
and images of other data sets, are answered from their files by the exported file in graft_runtime.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from unknown import OUTSIDERS, area, images

from graft.data.dataset import TEST, Dataset, decode_pixels
from graft.data.readers.source import read_source
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load
from graft_runtime.predictor import Predictor
from graft_runtime.predictor import load as exported

SET, MOST = "rsscn7_sub", 200  # outsiders of each data set
SHORT = "epochs=2,refit=no,blend=none"  # no blend: what was trained is what is exported
ROWS = (
    *(("mobilenetv2_100", strategy) for strategy in ("probe", "tail", "lp-ft", "full", "gradual", "two-phase", "norm")),
    *(("deit_tiny_patch16_224", strategy) for strategy in ("tail", "lora")),
    *(("tf_efficientnet_lite0", strategy) for strategy in ("tail", "lp-ft", "full")),
)


def main() -> None:
    """Print one row for each network and strategy."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    data = read_source(options.data / SET)
    test = data.take(data.part(TEST))
    others = {name: some(images(options.data, name)) for name in OUTSIDERS if name != SET}
    columns = ["network", "strategy", "right %", "worst probability", "changed", "called unknown %", *others]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for network, strategy in ROWS:
            if options.only in f"{network} {strategy}":
                folder = (options.models or Path(place)) / f"{network}-{strategy}"
                row(trained(options.data / SET, folder, network, strategy), Path(place, "x.onnx"), test, others)


def trained(source: Path, folder: Path, network: str, strategy: str) -> Classifier:
    """The classifier, trained unless it lies in the folder."""
    if folder.exists():
        return load(folder)
    recipe = None if strategy == "probe" else SHORT.replace("epochs=2", "epochs=4") if strategy == "gradual" else SHORT
    return fit(source, folder, backbone=network, strategy=strategy, recipe=recipe, offline=True, report=False)


def row(classifier: Classifier, file: Path, test: Dataset, others: dict[str, Dataset]) -> None:
    """Of every test image the answer of the file against that of the classifier; how strange the outsiders are."""
    export(classifier, file, force=True)
    client = exported(file)
    want, got = classifier.predict(test), list(client.stream(test.read(row) for row in range(len(test))))
    worst = max(
        abs(one - two)
        for each, other in zip(want, got, strict=True)
        for one, two in zip(each.probabilities.values(), other.probabilities.values(), strict=True)
    )
    changed = sum((one.label, one.unknown) != (two.label, two.unknown) for one, two in zip(want, got, strict=True))
    right = np.mean([test.classes[label] == each.label for label, each in zip(test.labels, got, strict=True)])
    inside = scores(client, classifier, test)
    areas = [f"{area(inside, scores(client, classifier, each)):.4f}" for each in others.values()]
    unknown = np.mean([each.unknown for each in got])
    plain = [classifier.card.backbone["name"], classifier.card.strategy, f"{100 * right:.1f}", f"{worst:.1e}"]
    print("|", " | ".join([*plain, str(changed), f"{100 * unknown:.1f}", *areas]), "|", flush=True)


def scores(client: Predictor, classifier: Classifier, data: Dataset) -> np.ndarray:
    """The score of unknown that the file gives to each image."""
    enough = classifier.network.preprocess.decode_size
    found = [client.run(decode_pixels(data.read(row), enough)[None], ("unknown",))[0] for row in range(len(data))]
    return np.concatenate(found)


def some(data: Dataset) -> Dataset:
    """Every so-manieth, so that the whole takes minutes."""
    return data.take(np.linspace(0, len(data) - 1, min(MOST, len(data))).astype(int))


if __name__ == "__main__":
    main()
