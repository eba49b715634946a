"""Whether probabilities and prediction sets keep their word, on the data sets' own test parts.

python bench/honesty.py ../shared/data [--coverage 0.9] [NAME ...]
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.jobs.fit import fit
from graft.metrics.calibration import ReliabilityBin, calibration_error
from graft.metrics.intervals import wilson_interval
from graft.model.classifier import Classifier
from graft_runtime.decide import prediction_set_threshold

ENOUGH = 200  # test images


def main() -> None:
    """Print one row for each data set with enough test images."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--coverage", type=float, default=0.9)
    options = parser.parse_args()
    print(
        "| data set | test | calibrated by | ECE % before | after (95 %) | of which chance | out of fold % "
        "| sets hold the truth % (95 %) | mean size | before the likeliest class is added % | unknown % (5 allowed) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.names or sorted(path.parent.name for path in options.data.glob("*/train")):
        with tempfile.TemporaryDirectory() as folder:
            classifier = fit(options.data / name, Path(folder, "model"))
        if classifier.report["data"]["test"] >= ENOUGH:
            print(row(name, classifier, options.coverage), flush=True)


def row(name: str, classifier: Classifier, coverage: float) -> str:
    """One line of the table."""
    score, memory = classifier.report["evaluation"], classifier.memory
    assert memory
    assert memory.tested
    tested, least = memory.tested, prediction_set_threshold(classifier.card.sets, coverage)
    whole = np.zeros((len(tested), len(classifier.classes)))
    np.put_along_axis(whole, tested.columns.astype(int), tested.chances.astype(float), axis=1)
    alone, best = tested.own >= least, whole.argmax(axis=1) == tested.labels
    held, low_high = float((alone | best).mean()), wilson_interval(int((alone | best).sum()), len(tested))
    size = np.maximum((whole >= least).sum(axis=1), 1).mean()
    low, high = score["intervals"]["calibration_error"]
    before = error([ReliabilityBin(**each) for each in score["trust"]["before"]])
    unknown = score["trust"]["unknown"]
    cells = (
        name,
        len(tested),
        "class" if classifier.card.scales else "temperature",
        f"{100 * before:.1f}",
        f"**{100 * score['calibration_error']:.1f}** ({100 * low:.1f} to {100 * high:.1f})",
        f"{100 * chance(whole):.1f}",
        f"{100 * classifier.report['out_of_fold_accuracy']:.1f} against {100 * score['accuracy']:.1f}",
        f"**{100 * held:.1f}** ({100 * low_high[0]:.1f} to {100 * low_high[1]:.1f})",
        f"{size:.2f}",
        f"{100 * alone.mean():.1f}",
        f"{100 * unknown['rejected']:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def chance(chances: NDArray[np.float64], times: int = 200) -> float:
    """The calibration error that so many images show on average though every probability is true."""
    random, confidence = np.random.default_rng(0), chances.max(axis=1)
    drawn = [calibration_error(confidence, random.random(len(chances)) < confidence) for _ in range(times)]
    return float(np.mean(drawn))


def error(bins: list[ReliabilityBin]) -> float:
    """The calibration error that the bins of a reliability diagram say."""
    gaps = [each.count * abs(each.confidence - each.right) for each in bins if each.confidence is not None]
    return sum(gaps) / sum(each.count for each in bins)


if __name__ == "__main__":
    main()
