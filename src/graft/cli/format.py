"""Output of several commands: errors, caveats, findings, scores. Everything printed is also in the JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from graft_runtime.formatting import join_names
from graft_runtime.terminal import say

PAGE = "report.html"  # graft.model.storage.HTML_REPORT, which costs an import of torch; a test compares
MAX_LINES = 5  # lines of one kind before "and 12 more"
MAX_LOST_SHARE = 0.1  # share of unusable images above which it is a caveat of the score
MAX_NAMES = 12  # names in one line
MAX_CASES = 3  # cases of a finding


def next_command(model: Path, source: Path | None, example: str) -> str:
    """Return the next command for a classifier: `predict` for an image of the source, else `export`.

    It is `export` where the images are not files: members of an archive, boxes or rows of a table.
    """
    folders = (source, *source.parents, source / "images", source.parent / "images") if source else ()
    for folder in folders:
        if example and (folder / example).is_file():
            return f"graft predict {quote(str(model))} {quote(str(folder / example))}"
    return f"graft export {quote(str(model))} -o {quote(f'{model.absolute().name}.onnx')}"


def print_cautions(sentences: Sequence[str]) -> None:
    """Print caveats to standard error, as standard output may go into a program."""
    for sentence in sentences:
        say(f"careful: {sentence}", file=sys.stderr)


def print_error(error: Exception) -> None:
    """Print a user's error as one message to standard error."""
    say(f"graft: {error}", file=sys.stderr)


def print_stopped(job: str) -> None:
    """Print what is kept after Ctrl-C."""
    kept = " What was computed so far is kept: the same command goes on from there" if job in _RESUMABLE_JOBS else ""
    kept += ", or asks for --resume to go on with a training." if job == "fit" else "." * bool(kept)
    kept += " What was answered is kept: the same command with --resume goes on." * (job == "predict to a file")
    say(f"\ngraft: stopped.{kept}", file=sys.stderr)


_RESUMABLE_JOBS = ("fit", "embed", "collect", "check", "update")


def list_cautions(report: Mapping[str, Any]) -> list[str]:
    """List the caveats of a training; leaks first, as the score's own caveats end with leaks."""
    data, caveats = report["data"], list[str]()
    if data["leaks"]:
        caveats.append(
            f"{data['leaks']:,} test {_pluralise_have(data['leaks'])} a near-duplicate among the training images: "
            "the score flatters"
        )
    caveats += [
        *data.get("placeholders", ())[:MAX_CASES],
        *data["alike_names"],
        *data["conflicts"][:MAX_CASES],
        *_list_unusable(data),
    ]
    return [*caveats, *filter(None, [report.get("training", {}).get("trouble")]), *report.get("troubles", ())]


def _pluralise_have(count: int) -> str:
    return "image has" if count == 1 else "images have"


def print_findings(data: Mapping[str, Any]) -> None:
    """Print what was found in the images, except for the caveats."""
    if data["alike"] and not data["leaks"]:
        alike = f"{data['alike']:,} {_pluralise_have(data['alike'])} a near-duplicate"
        say(f"  duplicates   {alike}; these were kept on one side")
    _print_label_issues(data)
    if data["columns"]:
        say(f"  columns      {data['columns']}")
    if data["missing"]:
        say(f"  no image   classes without one usable image, left out: {join_names(data['missing'], MAX_NAMES)}")
    if data["untested"]:
        say(f"  not tested   too few images of: {join_names(data['untested'], MAX_NAMES)}")
    if data["ignored"]:
        say(f"  ignored      {', '.join(f'{what}: {count:,}' for what, count in data['ignored'].items())}")
    print_faults(data["faults"])


def _list_unusable(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a caveat where so many images are unusable that the score may not hold for the user's data set."""
    lost = len(data["faults"])
    count = data["train"] + data["test"] + lost
    if lost > MAX_LOST_SHARE * count:
        reason, often = Counter(data["faults"].values()).most_common(1)[0]
        yield f"{lost:,} of {count:,} images cannot be used, {often:,} of them because: {reason}"


def _print_label_issues(data: Mapping[str, Any]) -> None:
    """Print counts of label problems, whose images `graft check` shows."""
    found = {
        "of one content have different labels": len(data["conflicts"]),
        "have a near-duplicate with another label": data["disputed"],
        "are of another format than their ending says": data["misnamed"],
        "have a label that is in doubt": len(data["suspects"]),
    }
    if data["few"]:
        say(f"  few          fewer than 10 images each: {join_names(data['few'], MAX_NAMES)}")
    for what, count in found.items():
        if count:
            say(f"  look at      {count:,} images {what}: graft check shows them")


def print_faults(faults: Mapping[str, str]) -> None:
    """Print unusable images: the first ones with their fault, and the kinds of fault of the others."""
    if faults:
        say(f"  left out     {len(faults):,} images that cannot be used:")
    for name, reason in list(faults.items())[:MAX_LINES]:
        say(f"                 {name}: {reason}")
    if len(faults) > MAX_LINES:
        kinds = Counter(reason.partition(": ")[0] for reason in list(faults.values())[MAX_LINES:])
        say(f"                 and {len(faults) - MAX_LINES:,} more ({', '.join(kinds)})")


def format_counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:MAX_NAMES]]
    return ", ".join(shown) + (f" and {len(counts) - MAX_NAMES:,} more" if len(counts) > MAX_NAMES else "")


# --- scores -----------------------------------------------------------------------------------------------------------


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
