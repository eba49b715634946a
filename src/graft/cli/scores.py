"""Printing of scores. Everything printed is also in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft_runtime.formatting import join_names
from graft_runtime.terminal import say


def print_score(
    found: Mapping[str, Any] | None, on: str = "images that it never saw", caveats: Sequence[str] = ()
) -> None:
    """Print the main scores, with their caveats and the given ones in one place."""
    if not found:
        say("Not scored: no image could be kept aside for a test. Add images, at least two of each class.")
        _print_caveats(caveats)
        return
    multilabel, shift = found["task"] == "multilabel", found["trust"].get("shift")
    on += ", which are unlike the training images" * bool(shift and shift["unlike"])
    figure = found["mean_average_precision" if multilabel else "accuracy"]
    say(
        f"\n{format_percent(figure)} {'mean average precision' if multilabel else 'right'} on {found['count']:,} {on} ",
        end="",
    )
    say(f"(95 % confidence: {_format_interval(found['interval'])})\n")
    _print_caveats([*found["careful"], *caveats])
    worst = sorted((each for each in found["classes"] if each["count"]), key=lambda each: each["f1"] or 0.0)[:3]
    if worst:
        named = ", ".join(f"{each['name']} (F1 {format_percent(each['f1'])})" for each in worst)
        say(f"  worst        {named}")
    (_print_label_scores if multilabel else _print_class_scores)(found)
    say(f"  probability  off by {found['calibration_error']:.1%} on average; log-loss {found['log_loss']:.3f}")
    _print_trust(found["trust"])


def _print_caveats(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        say(f"  careful      {sentence}")


def _print_label_scores(found: Mapping[str, Any]) -> None:
    micro, macro = format_percent(found["micro_f1"]), format_percent(found["macro_f1"])
    say(f"  labels       F1 {micro} over all answers, {macro} as mean over labels; ", end="")
    say(f"every label right in {found['subset_accuracy']:.1%} of the images")


def _print_class_scores(found: Mapping[str, Any]) -> None:
    """Print balanced accuracy for imbalanced classes, top-5 accuracy, and the most frequent confusion."""
    balanced, top = found["balanced_accuracy"], found["top_k"]
    if abs(balanced - found["accuracy"]) >= 0.01:
        say(f"  each class   {balanced:.1%} right as mean over classes")
    if top is not None:
        say(f"  first five   hold the right class for {top:.1%} of the images")
    if found["confused"]:
        true, predicted, count = found["confused"][0]
        names = [each["name"] for each in found["classes"]]
        say(f"  mistakes     most often {names[true]} taken for {names[predicted]} ", end="")
        say(f"({count:,} of {_count_mistakes(found):,})")


def _count_mistakes(found: Mapping[str, Any]) -> int:
    return sum(count for _, _, count in found["confused"])


def _print_trust(trust: Mapping[str, Any]) -> None:
    if sets := trust["sets"]:
        say(f"  sets         asked to hold the truth for {sets['coverage']:.0%} of the images, hold it for ", end="")
        say(f"{sets['covered']:.1%}, with {sets['mean_size']:.2f} classes on average")
    if unknown := trust["unknown"]:
        say(f"  unknown      {unknown['rejected']:.1%} of these images are called unknown ", end="")
        say(f"({unknown['rate']:.0%} were allowed for)")
    if (strangers := trust["strangers"]) and strangers["rejected"] is not None:
        total = sum(strangers["classes"].values())
        say(f"  strangers    {strangers['rejected']:.1%} of {total:,} images of other classes are called unknown")


def format_nearest(prediction: Mapping[str, Any]) -> str:
    """Return the text that names the nearest training image of an unknown image; '' for other images."""
    if not prediction["unknown"] or not prediction["nearest"]:
        return ""
    nearest = prediction["nearest"][0]
    return f"  (nearest is {nearest['image']}: {join_names(nearest['labels'])})"


def format_percent(share: float | None) -> str:
    """Format a share in percent; '-' for None."""
    return "-" if share is None else f"{share:.1%}"


def _format_interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "cannot be told"
