"""Results as a person wants to read them on a terminal. Everything shown here is also in the JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import join, quote
from typing import Any

from graft import scores
from graft.extras import missing
from graft.model import history
from graft.model.history import Epoch
from graft.model.spans import span
from graft_runtime.screen import answer as answer_of
from graft_runtime.screen import listed
from graft_runtime.terminal import say

SMALL = ("mlp", "cnn", "rnn")  # no pretrained weights
PAGE = "report.html"  # graft.model.storage.PAGE, which costs an import of torch; a test compares
MOST = 5  # lines of any one kind before "and 12 more"
LOST = 0.1  # share of the images that cannot be used, above which it is said with care
MANY = 12  # names in one line before that
DEEPEST = 4  # layers that the table of stages counts from the top
SOME = 3  # cases of a finding
FIXED = ("leak", "conflict", "copy", "unreadable")  # what a cleaned list leaves out


def fitted(report: Mapping[str, Any], photos: Path, output: Path) -> None:
    """The closing summary of `graft fit`."""
    data = report["data"]
    scores.score(report["evaluation"], also=careful(report))
    if "solved_again" in report:
        say(f"  trained on   {report['solved_again']:,} pictures of {len(report['classes'])} classes")
    elif "valid" in report:
        say(f"  trained on   {report['inner']:,} pictures, {report['valid']:,} more held out to choose by")
    elif data["train"]:
        say(f"  trained on   {data['train']:,} pictures of {len(report['classes'])} classes")
    if report.get("weights", {}).get("where") == "random":
        say(f"  weights      random, {report['weights']['origin']}: pretrained on nothing")
    _training(report)
    if "head" in report:
        layers = report["layers"]
        read = "last layer" if layers == ["last"] else f"{len(layers)} layers" if len(layers) > 1 else layers[0]
        fewer = f", {count} principal components" if (count := report["head"].get("pca")) else ""
        say(f"  head         {report['head']['name']}, {read}{fewer}")
    if "seconds" in report:
        say(f"  time         {_time(report['seconds'])}")
    findings(data)
    say(f"  saved in     {output}")
    if (output / PAGE).is_file():
        say(f"  report       {output / PAGE}")
    say(f"\nNext:  {used(output, photos, report['example'])}")


def used(model: Path, source: Path | None, example: str) -> str:
    """What to do with a classifier: ask it about an image of the source or, where none is a file by itself (a member, a
    box, a row), write it as a file."""
    folders = (source, *source.parents, source / "images", source.parent / "images") if source else ()
    for folder in folders:
        if example and (folder / example).is_file():
            return f"graft predict {quote(str(model))} {quote(str(folder / example))}"
    return f"graft export {quote(str(model))} -o {quote(f'{model.absolute().name}.onnx')}"


def epoch(epoch: Epoch) -> None:
    """One line as soon as an epoch is over."""
    say(f"  {history.line(epoch)}", file=sys.stderr)


def stages(network: str, chain: Sequence[Mapping[str, Any]]) -> None:
    """The table of `graft stages`."""
    width = max(len(stage["name"]) for stage in chain)
    columns = f"{'params':>11} {'below':>7} {'work':>7} {'above':>7}"
    say(f"{'index':>5} {'share':>6}  {'stage':<{width}}  {'output':<16} {columns}")
    for stage in chain:
        shape = " x ".join(map(str, stage["shape"]))
        work, above = ("-" if stage[name] is None else f"{stage[name]:.1%}" for name in ("work", "above"))
        numbers = f"{stage['parameters']:>11,} {stage['below']:>7.1%} {work:>7} {above:>7}"
        say(f"{stage['index']:>5} {stage['share']:>6}  {stage['name']:<{width}}  {shape:<16} {numbers}")
    if chain[0]["work"] is None:
        say(missing("torch", "The work of a stage is counted by PyTorch, and that"))
    _last(chain)
    say(f"A cut freezes what is above its line. Next:  graft fit photos/ -o model/ --backbone {network} ", end="")
    say("--strategy scratch" if network in SMALL else f"--strategy tail:cut={chain[len(chain) * 3 // 4]['name']}")


def _last(chain: Sequence[Mapping[str, Any]]) -> None:
    """What last=1, last=2 and so on would train: each layer adds to those above it."""
    layers = [layer for stage in chain for layer in stage["layers"]]
    width, trained = max((len(layer["name"]) for layer in layers[-DEEPEST:]), default=0), 0
    for count, layer in enumerate(reversed(layers[-DEEPEST:]), start=1):
        trained += layer["parameters"]
        say(f"last={count} trains from {layer['name']:<{width}} on: {trained:>11,} parameters, and the head")


def _training(report: Mapping[str, Any]) -> None:
    """What was frozen, what was trained, and what came of it."""
    for phase in report.get("phases", ()):
        tuned = "tried" if "solved_again" in report else "tuned"
        say(f"  {tuned}        {span(phase)}: {phase['trained_parameters']:,} parameters ", end="")
        say(f"({phase['frozen_parameters']:,} frozen), {phase['epochs']} epoch{'s' * (phase['epochs'] > 1)}")
    if "training" in report:
        training, blend = report["training"], report["training"]["blend"]
        kept = f"epoch {training['kept']}" if not blend["mean"] else "the mean of the later epochs"
        if blend["share"] == 0:
            kept = "the solved head: training did no better on the held-out pictures"
        elif blend["share"] < 1:
            kept = f"{blend['share']:.0%} of {kept}, the rest the solved head"
        refit = f"; then trained in the same way on all {report['refit']:,}" if "refit" in report else ""
        say(f"  kept         {kept}{refit}")
        say(f"  cost         {report['forward_equivalents']:.1f} forward passes for each picture")


def evaluated(evaluation: Mapping[str, Any]) -> None:
    """The score of `graft evaluate`."""
    scores.score(evaluation, "pictures")
    _left_out(evaluation["faults"])


def cautioned(sentences: Sequence[str]) -> None:
    """What to read before the answers; on standard error, as answers may go into a program."""
    for sentence in sentences:
        say(f"careful: {sentence}", file=sys.stderr)


def written(found: Mapping[str, Any]) -> None:
    """What `graft predict` wrote where."""
    cautioned(found["careful"])
    before = f", {found['before']:,} of them before it was stopped" if found["before"] else ""
    say(f"{found['answers']:,} answers written to {found['output']}{before}")
    if found["faults"]:
        say(f"  left out     {found['faults']:,} pictures that cannot be used; the column 'fault' says why")
        for picture, fault in found["examples"]:
            say(f"                 {picture}: {fault}")


def predicted(predictions: Sequence[Mapping[str, Any]]) -> None:
    """One line for each picture."""
    answers = [answer_of(each) for each in predictions]
    width = max(
        (len(answer) for answer, each in zip(answers, predictions, strict=True) if not each["fault"]), default=0
    )
    for answer, each in zip(answers, predictions, strict=True):
        say(f"{answer if each['fault'] else answer.ljust(width)}  {each['picture']}{scores.evidence(each)}")


def explained(found: Sequence[Mapping[str, Any]]) -> None:
    """The answer and the drawing of each picture of `graft explain`."""
    words = [f"(unknown) like {each['explained']}" if each["unknown"] else each["explained"] for each in found]
    width = max(map(len, words), default=0)
    for each, word in zip(found, words, strict=True):
        if each["fault"]:
            say(f"    -    not judged, {each['fault']}  {each['picture']}")
        else:
            chance = "-" if each["unknown"] else f"{each['probabilities'][each['explained']]:.1%}"
            say(f"{chance:>7}  {word:<{width}}  {each['picture']}  drawn in {each['drawing']}")


def embedded(table: Mapping[str, Any], output: Path) -> None:
    """What `graft embed` made."""
    rows, width = table["shape"]
    say(f"{rows:,} x {width:,} features written to {output} ({table['computed']:,} computed, the rest from the cache)")
    _left_out(table["faults"])


def mapped(written: Mapping[str, Any], output: Path) -> None:
    """What `graft embed --maps` made."""
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in written["shapes"].items())
    say(f"{written['images']:,} images x {shapes} written to {output}")
    _left_out(written["faults"])


def collected(report: Mapping[str, Any]) -> None:
    """The closing summary of `graft collect`."""
    classes = report["classes"]
    say(f"{report['pictures']:,} pictures of {len(classes)} classes in {report['folder']}\n")
    if classes:
        say(f"  classes      {_counted(classes)}")
    if report["duplicates"]:
        say(f"  duplicates   {report['duplicates']:,} more of the same content and label, kept once")
    if report["conflicts"]:
        say(f"  conflicts    {len(report['conflicts']):,} of the same content and another label: the first is kept")
    if refused := report["refused"]:
        say(f"  refused      {sum(refused.values()):,}: {_counted(refused)}")
    if failed := report["failed"]:
        say(f"  failed       {sum(failed.values()):,}, asked for again by the same command: {_counted(failed)}")
    if report["waiting"]:
        say(f"  waiting      {report['waiting']:,} not fetched yet: the same command goes on")
    say(f"  each URL in  {report['manifest']}")
    if len(classes) > 1:
        folder = quote(report["folder"])
        say(f"\nNext:  graft check {folder}\n       graft fit {folder} -o model/")


def checked(report: Mapping[str, Any], photos: Path, options: Sequence[str] = ()) -> None:
    """The closing summary of `graft check`; `options` say how the photos are read."""
    usable = f"{report['usable']:,} of " if report["usable"] < report["pictures"] else ""
    say(f"{usable}{report['pictures']:,} pictures of {len(report['classes'])} classes in {photos}\n")
    for finding in report["findings"]:
        say(f"  {finding['severity']:<12} {finding['says']}")
        for case in finding["cases"][:SOME]:
            note = f": {case['note']}" if case["note"] else ""
            say(f"                 {' = '.join(case['pictures'])}{note}")
        if (more := len(finding["cases"]) - SOME) > 0:
            say(f"                 and {more:,} more")
    if not report["findings"]:
        say("  nothing found")
    if report["columns"]:
        say(f"  columns      {report['columns']}")
    if report["ignored"]:
        say(f"  ignored      {', '.join(f'{what}: {count:,}' for what, count in report['ignored'].items())}")
    if "page" in report:
        say(f"  shown in     {report['page']}")
    if "list" in report:
        say(f"  cleaned list {report['list']['file']}, {report['list']['pictures']:,} pictures; nothing was moved")
    say(f"\nNext:  {_next(report, photos, options)}")


def _next(report: Mapping[str, Any], photos: Path, options: Sequence[str]) -> str:
    """What to do after a check: look, then leave out, then train."""
    folder = join([str(photos), *options])
    if "list" in report:
        return f"graft fit {quote(report['list']['file'])} -o model/"
    if "page" not in report and any(finding["cases"] for finding in report["findings"]):
        return f"graft check {folder} -o check.html\n       and look at check.html in a browser"
    if any(finding["kind"] in FIXED for finding in report["findings"]):
        return f"graft check {folder} --fix clean.csv"
    return f"graft fit {folder} -o model/"


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:MANY]]
    return ", ".join(shown) + (f" and {len(counts) - MANY:,} more" if len(counts) > MANY else "")


def networks(found: Sequence[Mapping[str, Any]]) -> None:
    """The table of `graft backbones`."""
    say(f"{'name':<48} {'params':>8} {'GMAC':>7} {'px':>5}  {'weights':<9} licence of the weights")
    for each in found:
        million = f"{each['parameters'] / 1e6:.1f} M" if each["parameters"] else "-"
        cost = (f"{each['gmac']:.2f}" if each["gmac"] >= 0.01 else f"{each['gmac']:.1g}") if each["gmac"] else "-"
        place = f"{each['weights']:<9} {each['licence']}"
        say(f"{each['name']:<48} {million:>8} {cost:>7} {each['size']:>5}  {place}")
    if any(each["weights"] == "offline" for each in found):
        say("'offline': the weights are published but not on this machine, and downloads are off.")
    say(f"{len(found):,} found; '-' is not measured. Next:  graft fit photos/ -o model/ --backbone NAME")


def failed(error: Exception) -> None:
    """A user's mistake, as one message on standard error."""
    say(f"graft: {error}", file=sys.stderr)


def stopped(job: str) -> None:
    """What Ctrl-C leaves behind."""
    kept = " What was computed so far is kept: the same command goes on from there" if job in _CACHING else ""
    kept += ", or asks for --resume to go on with a training." if job == "fit" else "." * bool(kept)
    kept += " What was answered is kept: the same command with --resume goes on." * (job == "predict to a file")
    say(f"\ngraft: stopped.{kept}", file=sys.stderr)


_CACHING = ("fit", "embed", "collect", "check", "update")


def careful(report: Mapping[str, Any]) -> list[str]:
    """Whatever else makes a classifier or its score doubtful; leaks first, as the score's own end with them."""
    data, said = report["data"], list[str]()
    if data["leaks"]:
        said.append(
            f"{data['leaks']:,} test {_have(data['leaks'])} a near-duplicate among the training pictures: "
            "the score flatters"
        )
    said += [*data.get("placeholders", ())[:SOME], *data["alike_names"], *data["conflicts"][:SOME], *_lost(data)]
    return [*said, *filter(None, [report.get("training", {}).get("trouble")]), *report.get("troubles", ())]


def _have(count: int) -> str:
    return "picture has" if count == 1 else "pictures have"


def findings(data: Mapping[str, Any]) -> None:
    """What was noticed about the pictures, but for what `careful` says."""
    if data["alike"] and not data["leaks"]:
        say(f"  duplicates   {data['alike']:,} {_have(data['alike'])} a near-duplicate; these were kept on one side")
    _doubts(data)
    if data["columns"]:
        say(f"  columns      {data['columns']}")
    if data["missing"]:
        say(f"  no picture   classes without one usable picture, left out: {listed(data['missing'], MANY)}")
    if data["untested"]:
        say(f"  not tested   too few pictures of: {listed(data['untested'], MANY)}")
    if data["ignored"]:
        say(f"  ignored      {', '.join(f'{what}: {count:,}' for what, count in data['ignored'].items())}")
    _left_out(data["faults"])


def _lost(data: Mapping[str, Any]) -> Iterator[str]:
    """Told where so many images cannot be used that the score may be about another set than the user's."""
    lost = len(data["faults"])
    count = data["train"] + data["test"] + lost
    if lost > LOST * count:
        reason, often = Counter(data["faults"].values()).most_common(1)[0]
        yield f"{lost:,} of {count:,} images cannot be used, {often:,} of them because: {reason}"


def _doubts(data: Mapping[str, Any]) -> None:
    """What `graft check` would show pictures of."""
    found = {
        "of one content have different labels": len(data["conflicts"]),
        "have a near-duplicate with another label": data["disputed"],
        "are of another format than their ending says": data["misnamed"],
        "have a label that is in doubt": len(data["suspects"]),
    }
    if data["few"]:
        say(f"  few          fewer than 10 pictures each: {listed(data['few'], MANY)}")
    for what, count in found.items():
        if count:
            say(f"  look at      {count:,} pictures {what}: graft check shows them")


def _left_out(faults: Mapping[str, str]) -> None:
    """Pictures that cannot be used, some with what is wrong with them, and the kinds of fault of the others."""
    if faults:
        say(f"  left out     {len(faults):,} pictures that cannot be used:")
    for name, reason in list(faults.items())[:MOST]:
        say(f"                 {name}: {reason}")
    if len(faults) > MOST:
        kinds = Counter(reason.partition(": ")[0] for reason in list(faults.values())[MOST:])
        say(f"                 and {len(faults) - MOST:,} more ({', '.join(kinds)})")


def _time(seconds: Mapping[str, float]) -> str:
    shares = sorted(((spent, what) for what, spent in seconds.items() if spent >= 0.05), reverse=True)
    return f"{sum(seconds.values()):.1f} s ({', '.join(f'{what} {spent:.1f}' for spent, what in shares)})"
