"""A score as a person wants to read it on a terminal. Everything shown here is also in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft_runtime.screen import listed
from graft_runtime.terminal import say


def score(found: Mapping[str, Any] | None, on: str = "pictures that it never saw", also: Sequence[str] = ()) -> None:
    """The few figures that matter, in plain words, and what makes them doubtful, with `also`, in one place."""
    if not found:
        say("Not scored: no picture could be kept aside for a test. Add pictures, at least two of each class.")
        _careful(also)
        return
    several = found["task"] == "multilabel"
    figure = found["mean_average_precision" if several else "accuracy"]
    say(f"\n{percent(figure)} {'mean average precision' if several else 'right'} on {found['count']:,} {on} ", end="")
    say(f"(95 % confidence: {_span(found['interval'])})\n")
    _careful([*found["careful"], *also])
    worst = sorted((each for each in found["classes"] if each["count"]), key=lambda each: each["f1"] or 0.0)[:3]
    if worst:
        named = ", ".join(f"{each['name']} (F1 {percent(each['f1'])})" for each in worst)
        say(f"  worst        {named}")
    (_labels if several else _mistakes)(found)
    say(f"  probability  off by {found['calibration_error']:.1%} on average; log-loss {found['log_loss']:.3f}")
    _trust(found["trust"])


def _careful(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        say(f"  careful      {sentence}")


def _labels(found: Mapping[str, Any]) -> None:
    f1 = f"F1 {percent(found['micro_f1'])} over all answers, {percent(found['macro_f1'])} as mean over labels"
    say(f"  labels       {f1}; every label right in {found['subset_accuracy']:.1%} of the pictures")


def _mistakes(found: Mapping[str, Any]) -> None:
    """The mean over classes where these are of unequal size, the five likeliest, and what is mistaken for what."""
    balanced, top = found["balanced_accuracy"], found["top_k"]
    if abs(balanced - found["accuracy"]) >= 0.01:
        say(f"  each class   {balanced:.1%} right as mean over classes")
    if top is not None:
        say(f"  first five   hold the right class for {top:.1%} of the pictures")
    if found["confused"]:
        true, said, count = found["confused"][0]
        names = [each["name"] for each in found["classes"]]
        say(f"  mistakes     most often {names[true]} taken for {names[said]} ({count:,} of {_total(found):,})")


def _total(found: Mapping[str, Any]) -> int:
    return sum(count for _, _, count in found["confused"])


def _trust(trust: Mapping[str, Any]) -> None:
    if sets := trust["sets"]:
        say(f"  sets         asked to hold the truth for {sets['coverage']:.0%} of the pictures, hold it for ", end="")
        say(f"{sets['covered']:.1%}, with {sets['mean_size']:.2f} classes on average")
    if unknown := trust["unknown"]:
        say(f"  unknown      {unknown['rejected']:.1%} of these pictures are called unknown ", end="")
        say(f"({unknown['rate']:.0%} were allowed for)")
    if (strangers := trust["strangers"]) and strangers["rejected"] is not None:
        total = sum(strangers["classes"].values())
        say(f"  strangers    {strangers['rejected']:.1%} of {total:,} pictures of other classes are called unknown")


def compared(found: Mapping[str, Any], first: str, second: str) -> None:
    """The verdict of `graft compare-runs`, and what it rests on."""
    named = "mean average precision" if found["metric"] != "accuracy" else "right"
    low, high = found["interval"]
    saying = {"better": f"{first} is better than {second}", "worse": f"{first} is worse than {second}"}
    say(f"\n{saying.get(found['verdict'], f'{first} and {second} are not distinguishable')}: ", end="")
    say(f"{found['first']:.1%} against {found['second']:.1%} {named} on the same {found['shared']:,} pictures\n")
    say(f"  difference   {found['difference']:+.1%} (95 % confidence: {low:+.1%} to {high:+.1%})")
    only = f"{found['only_first']:,} pictures only by {first}, {found['only_second']:,} only by {second}"
    chance = "" if found["p"] is None else f"; equals split so in {found['p']:.1%} of cases (McNemar)"
    say(f"  answered     {only}{chance}")
    if found["log_loss"] is not None:
        low, high = found["log_loss_interval"]
        say(f"  log-loss     {found['log_loss']:+.3f} ({low:+.3f} to {high:+.3f}); less is better")
    say(f"  test parts   {found['tested'][0]:,} and {found['tested'][1]:,} pictures")
    for name, other, count in ((first, second, found["trained_on"][0]), (second, first, found["trained_on"][1])):
        if count:
            say(f"  careful      {name} was trained on {count:,} of the test pictures of {other}")
    if found["other"]:
        say(f"  careful      {found['other']:,} shared pictures have other labels in one than in the other: left out")


def evidence(prediction: Mapping[str, Any]) -> str:
    """Beside the name of an unknown picture: the training picture that comes nearest."""
    if not prediction["unknown"] or not prediction["nearest"]:
        return ""
    nearest = prediction["nearest"][0]
    return f"  (nearest is {nearest['picture']}: {listed(nearest['labels'])})"


def percent(share: float | None) -> str:
    """A share, or a dash where it cannot be told."""
    return "-" if share is None else f"{share:.1%}"


def _span(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "cannot be told"
