"""The command line as real processes: exit codes, signals, pipes, old terminals, and no traceback for a mistake."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from graft.backbones import catalog
from graft.cli import app, format, networks, options, predict, preflight
from graft.cli.fit import STRATEGY_NAMES, _print_training
from graft.cli.networks import SCRATCH_NETWORKS
from graft.jobs.direct import load_published_classifier
from graft.jobs.embed import embed
from graft.jobs.fit import fit
from graft.jobs.networks import stages
from graft.model import history
from graft.model.classifier import load
from graft.model.history import Epoch
from graft.progress import no_progress
from graft.torch import build
from graft.torch.build import build_network
from graft.training.plan import Plan
from graft.training.strategies import STRATEGIES
from graft_runtime import decide
from graft_runtime.cli import main as runtime

QUICK = "probe:head=ridge,layers=last"

# What a child process does before it becomes `graft`.
SLOW = """
from graft.features.store import Store
import sys, time
add = Store.add
def slow(self, keys, rows):
    add(self, keys, rows)
    print("added", flush=True, file=sys.stderr)
    time.sleep(2)
Store.add = slow
"""
KILLED_IN_EMBEDDING = """
from graft.features.store import Store
import os, signal
add, calls = Store.add, []
def last(self, keys, rows):
    add(self, keys, rows)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Store.add = last
"""
KILLED_IN_SAVING = """
from graft import atomic
import os, signal
replace = atomic._swap_in
def last(fresh, place):
    replace(fresh, place)
    os.kill(os.getpid(), signal.SIGKILL)
atomic._swap_in = last
"""
NO_SOCKET = """
import socket
def refused(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket.__init__ = socket.create_connection = socket.getaddrinfo = refused
"""


def interruptible() -> None:
    """Programs that a shell starts in the background ignore Ctrl-C, and so would those that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def child(before: str, *words: object, **options: Any) -> subprocess.Popen[str]:
    code = f"{before}\nfrom graft.cli import app as cli\ncli.main()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], **pipes, preexec_fn=interruptible)


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An undisturbed classifier of the photos."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    fit(photos, folder, strategy=QUICK)
    yield folder
    load(folder)  # whatever the tests did, it is still whole


# --- light, and the same words everywhere -----------------------------------------------------------------------------


def test_help_needs_no_heavy_import() -> None:
    code = """
import sys
from graft.cli import app as cli
sys.argv = ["graft", "fit", "--help"]
try:
    cli.main()
finally:
    print("HEAVY", [name for name in ("torch", "timm", "sklearn", "numpy", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "--strategy" in done.stdout


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ("--epochs 3", "--recipe epochs=3?"),
        ("--epochs=3", "--recipe epochs=3?"),
        ("--epoch 3", "--recipe epochs=3?"),
        ("--layer-decay 0.9", "--recipe layer_decay=0.9?"),
        ("--cut 0.5", "--strategy tail:cut=0.5?"),
        ("-s lora --cut 0.5", "--strategy lora:cut=0.5?"),
        ("--rank 4", "--strategy lora:rank=4?"),
        ("--hidden 64", "--head mlp:hidden=64?"),
        ("--head conv --dropout 0.5", "--head conv:dropout=0.5?"),
        ("--stategy tail", "--strategy?"),
        ("--recepi epochs=3", "--recipe?"),
        ("--lr 0.1", "--recipe rate=0.1?"),
        ("--learning-rate 0.1", "--recipe rate=0.1?"),
        ("--wd 0.1", "--recipe weight_decay=0.1?"),
        ("--model resnet18", "--backbone?"),
        ("--epochs", "--recipe epochs=...?"),
        ("--zzzz 1", "lists all."),
    ],
)
def test_an_option_that_is_a_word_inside_another_is_told_where_it_belongs(words: str, want: str) -> None:
    done = graft("fit", "photos", "-o", "model", *words.split())
    assert done.exit_code == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert want in said


def test_an_option_that_is_there_and_lacks_its_value_is_not_called_unknown() -> None:
    done = graft("fit", "photos", "--output")
    assert done.exit_code == 2
    assert "Option '--output' requires an argument." in " ".join(done.stderr.replace("│", " ").split())


def test_the_programs_say_which_version_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(app.app, ["--version"]).output == f"graft {metadata.version('graft-vision')}\n"
    with pytest.raises(SystemExit, match=r"^0$"):
        runtime(["--version"])
    assert capsys.readouterr().out == f"graft-runtime {metadata.version('graft-runtime')}\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of POSIX")
def test_whoever_waits_at_a_terminal_is_told_so_and_the_word_goes_again() -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "graft", "collect", "no_such_list.csv", "-o", "no_such_folder"]
    with os.fdopen(ours, "rb"):
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=False)
        os.close(theirs)
        said = os.read(ours, 4096).decode()
    assert process.returncode == 3
    first, blank, rest = said.split("\r", 2)
    assert (first, blank) == ("loading …", " " * len("loading …"))
    assert rest.startswith("graft: ")


def test_names_that_are_written_twice_are_the_same() -> None:
    assert options.DEFAULT == catalog.DEFAULT
    assert predict.UNKNOWN_RATE == decide.UNKNOWN_RATE
    assert set(SCRATCH_NETWORKS) == set(build.SMALL)


@pytest.mark.parametrize(("command", "job"), [("fit", fit), ("embed", embed)])
def test_options_have_the_defaults_of_python(command: str, job: Any) -> None:
    group = typer.main.get_command(app.app)
    options = {each.name: each.default for each in group.commands[command].params}  # pyright: ignore
    python = {name: each.default for name, each in inspect.signature(job).parameters.items()}
    shared = options.keys() & python.keys() - {"output"}
    assert shared >= {"weights", "offline"}
    assert {name: options[name] for name in shared} == {name: python[name] for name in shared}
    assert python.keys() - options.keys() <= {"source", "on_epoch", "watch", "plan", "changes"}, (
        "an option of Python is not on the command line"
    )


# --- the options of fit ----------------------------------------------------------------------------------------------

OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--strategy", "tail:cut=0.5"], {"strategy": "tail:cut=0.5"}),
    (["--boxes"], {"boxes": True}),
    (["--against", "others/"], {"against": "others/"}),
    (["-s", "full"], {"strategy": "full"}),
    (["--head", "mlp:hidden=256+128"], {"head": "mlp:hidden=256+128"}),
    (["--recipe", "epochs=5,rate=1e-3"], {"recipe": "epochs=5,rate=1e-3"}),
    (["-r", "epochs=5"], {"recipe": "epochs=5"}),
    (["--backbone", "resnet18"], {"backbone": "resnet18"}),
    (["--weights", "w.pth"], {"weights": "w.pth"}),
    (["--weights", "./random"], {"weights": "./random"}),
    (["--offline"], {"offline": True}),
    (["--seed", "7"], {"seed": 7}),
    (["--from", "one/model.json"], {"like": Path("one/model.json")}),
    (["--columns", "file=path,label=species"], {"columns": "file=path,label=species"}),
    (["--strict"], {"strict": True}),
    (["--resume"], {"resume": True}),
    (["--log", "tensorboard,mlflow"], {"log": "tensorboard,mlflow"}),
    (["--no-report"], {"report": False}),
    (["--force"], {"force": True}),
]


class Fitted:
    """As much of a classifier as the command line looks at."""

    report: ClassVar[dict[str, Any]] = {"seconds": {}}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the job was called with."""
    heard: dict[str, Any] = {}

    def job(source: Path, output: Path, plan: Plan, **options: Any) -> Fitted:
        heard.update({"source": source, "output": output} | asdict(plan) | options)
        return Fitted()

    def check_plan(output: Path, like: Path | None, resume: bool, log: str, weights: str, **changes: Any) -> Plan:
        heard["like"] = like
        return Plan().change(**changes)

    for name in ("check_source", "check_output_folder"):  # of photos and files that are not there
        monkeypatch.setattr(preflight, name, lambda *_, **__: None)
    monkeypatch.setattr(preflight, "check_plan", check_plan)
    monkeypatch.setattr("graft.jobs.fit.fit", job)
    return heard


@pytest.mark.parametrize(("words", "options"), OPTIONS, ids=[" ".join(words) for words, _ in OPTIONS])
def test_every_option_reaches_the_job(words: list[str], options: dict[str, Any], given: dict[str, Any]) -> None:
    done = graft("fit", "photos", "-o", "model", "--json", "-q", *words)
    assert done.exit_code == 0, done.stderr
    defaults = {name: each.default for name, each in inspect.signature(fit).parameters.items()}
    assert given.pop("watch") is no_progress
    assert given.pop("on_epoch") is not defaults.pop("on_epoch")
    for name in ("watch", "plan", "changes"):
        defaults.pop(name)
    defaults |= {"like": None} | asdict(Plan()) | {"weights": None}
    assert given == defaults | {"source": Path("photos"), "output": Path("model")} | options


def test_no_option_is_left_out_above() -> None:
    tried = {name for _, options in OPTIONS for name in options}
    command = typer.main.get_command(app.app).commands["fit"]  # pyright: ignore[reportAttributeAccessIssue]
    assert tried == {each.name for each in command.params} - {"photos", "output", "device", "as_json", "quiet"}


def test_the_strategies_in_the_help_are_all_there_are() -> None:
    assert sorted(STRATEGY_NAMES.split(", ")) == sorted(STRATEGIES)


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_every_mistake_has_its_exit_code_and_one_message(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    new = tmp_path / "new"
    mistakes: list[tuple[int, list[object]]] = [
        (2, ["fit", photos, "-o", new, "--strategy", "magic"]),
        (2, ["fit", photos, "-o", new, "--strategy", "probe:head"]),
        (2, ["fit", photos, "-o", new, "--backbone", "resnet"]),
        (2, ["fit", photos, "-o", new, "--seed", 2**70]),
        (2, ["backbones", "-f", "nosuchnetwork"]),
        (3, ["fit", tmp_path / "empty", "-o", new]),
        (3, ["fit", tmp_path / "nowhere", "-o", new]),
        (3, ["predict", model, tmp_path / "nowhere.jpg"]),
        (3, ["evaluate", model, tmp_path / "empty"]),
        (4, ["fit", photos, "-o", new, "--weights", tmp_path / "nowhere.pth"]),
        (4, ["fit", photos, "-o", new, "--weights", photos / "disc" / "00.png"]),
        (4, ["fit", photos, "-o", new, "--backbone", "resnet18", "--offline"]),
        (5, ["predict", photos, photos]),
        (5, ["evaluate", tmp_path / "nowhere", photos]),
        (6, ["fit", photos, "-o", model]),
        (6, ["fit", photos, "-o", photos, "--force"]),
        (6, ["embed", photos, "-o", photos / "disc" / "00.png", "--force"]),
    ]
    for code, words in mistakes:
        done = graft(*words)
        assert (done.exit_code, done.stdout) == (code, ""), words
        assert done.stderr.startswith("graft: "), words
        assert done.stderr.count("\n") == 1, words
        assert isinstance(done.exception, SystemExit), words
    assert not new.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize("words", [["fit"], ["fit", "a", "b"], ["nosuch"], ["fit", ".", "-o", "m", "--seed", "-1"]])
def test_words_that_make_no_command_exit_with_2(words: list[str]) -> None:
    assert graft(*words).exit_code == 2


@pytest.mark.fault(34)
def test_a_full_disk_behind_standard_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(networks, "print_networks", full)
    done = graft("backbones", "-f", "alexnet")
    assert done.exit_code == 6
    assert "No space left on device" in done.stderr


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(36, 40)
@pytest.mark.slow
def test_ctrl_c_keeps_what_was_computed_and_a_second_run_meanwhile_is_refused(
    photos: Path, tmp_path: Path, own_cache: Path
) -> None:
    run = child(SLOW, "fit", photos, "-o", tmp_path / "m", "--strategy", QUICK, "-q")
    assert run.stderr
    assert [run.stderr.readline() for _ in range(2)] == ["added\n", "added\n"]
    second = graft("fit", photos, "-o", tmp_path / "m", "--strategy", QUICK, "-q")
    assert second.exit_code == 6
    assert "Another run is writing" in second.stderr
    start = time.monotonic()
    run.send_signal(signal.SIGINT)
    out, told = run.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert (run.returncode, out) == (130, "")
    assert "graft: stopped. What was computed so far is kept: the same command goes on from there" in told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    kept = sum(path.stat().st_size for path in own_cache.rglob("*.index")) // 24
    assert 16 <= kept < 36
    report = json.loads(graft("fit", photos, "-o", tmp_path / "m", "--strategy", QUICK, "-q", "--json").stdout)
    assert report["embedded"]["computed"] == 36 - kept


@pytest.mark.slow
@pytest.mark.fault(40)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(KILLED_IN_EMBEDDING, marks=pytest.mark.slow, id="embedding"),
        pytest.param(KILLED_IN_SAVING, id="saving"),
    ],
)
def test_killed_at_any_moment_the_same_command_gives_the_undisturbed_classifier(
    photos: Path, model: Path, tmp_path: Path, own_cache: Path, moment: str
) -> None:
    shutil.copytree(model, tmp_path / "m")
    words = ["fit", photos, "-o", tmp_path / "m", "--strategy", QUICK, "-q", "--force"]
    run = child(moment, *words)
    run.communicate(timeout=120)
    assert run.returncode == -signal.SIGKILL
    done = graft(*words)
    assert done.exit_code == 0
    assert sha(tmp_path / "m") == sha(model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "m"]


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of test_resnet, as if they had been pretrained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    save_file(build_network(catalog.find_entry("test_resnet")).state_dict(), folder / "test_resnet.safetensors")
    return folder


@pytest.mark.slow
def test_a_tail_says_what_was_tuned_kept_and_spent(photos: Path, weights: Path, tmp_path: Path) -> None:
    file = weights / "test_resnet.safetensors"
    recipe = "epochs=2,batch=8,refit=yes,blend=none"
    words = ["--backbone", "test_resnet", "--weights", file, "--strategy", "tail:cut=layer3,views=2", "-r", recipe]
    done = graft("fit", photos, "-o", tmp_path / "m", *words)
    assert done.exit_code == 0, done.stderr
    report = load(tmp_path / "m").report
    (phase,), lines = report["phases"], done.stdout.splitlines()
    tuned, frozen = phase["trained_parameters"], phase["frozen_parameters"]
    assert phase["cut"] == "layer3"
    assert phase["frozen"] + phase["trained"] == [*(stage["name"] for stage in stages("test_resnet")), "head"]
    assert f"  trained on   {report['inner']} images, {report['valid']} more held out to choose by" in lines
    assert (
        f"  tuned        from layer3 on, stage {phase['place'] + 1} of {phase['stages']}: {tuned:,} parameters "
        f"({frozen:,} frozen), 2 epochs"
    ) in lines
    assert f"  kept         epoch 2; then 1 epoch on all {report['data']['train']} images" in lines
    features = load(tmp_path / "m").network.features
    assert report["layers"] == [*features.layers, "last"]
    read = f"{len(report['layers'])} layers" if features.layers else "last layer"
    assert f"  head         {report['head']['name']}, {read}" in lines
    assert f"  cost         {report['forward_equivalents']:.1f} forward passes for each image" in lines
    told = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("epoch ")]
    assert told == [history.format_epoch(Epoch(**epoch)) for epoch in report["training"]["history"]]


@pytest.mark.parametrize(
    ("kept", "blend", "says"),
    [
        (3, {"share": 1.0, "mean": False}, "epoch 3"),
        (3, {"share": 0.4, "mean": False}, "40% of epoch 3, the rest the solved head"),
        (3, {"share": 1.0, "mean": True}, "the mean of the later epochs"),
        (3, {"share": 0.7, "mean": True}, "70% of the mean of the later epochs, the rest the solved head"),
        (3, {"share": 0.0, "mean": False}, "the solved head: training did no better on the held-out images"),
    ],
)
def test_what_is_kept_is_said_in_words(
    kept: int, blend: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"kept": kept, "blend": blend, "trouble": "The loss has exploded."}
    _print_training({"training": training, "forward_equivalents": 12.34})
    assert capsys.readouterr().out.splitlines() == [
        f"  kept         {says}",
        "  cost         12.3 forward passes for each image",
    ]
    data = {"leaks": 0, "alike_names": [], "conflicts": [], "faults": {}, "train": 4, "test": 1}
    assert format.list_cautions({"training": training, "data": data}) == [
        "The loss has exploded."
    ]  # at the head of the summary


def test_stages_are_listed_and_their_names_make_cuts() -> None:
    chain = stages("test_resnet")
    assert json.loads(graft("stages", "test_resnet", "--json").stdout) == chain
    header, *lines, hint = graft("stages", "test_resnet").stdout.splitlines()
    lines, last = lines[:-4], lines[-4:]
    assert header.split() == ["index", "share", "stage", "output", "params", "below", "work", "above"]
    assert [line.split()[2] for line in lines] == [stage["name"] for stage in chain]
    assert [int(line.split()[0]) for line in lines] == list(range(len(chain)))
    assert [line.split()[-4] for line in lines] == [f"{stage['parameters']:,}" for stage in chain]
    assert [line.split()[-1] for line in lines] == [f"{stage['above']:.1%}" for stage in chain]
    assert [line.split()[:4] for line in last[:2]] == [
        ["last=1", "trains", "from", "layer4.0.downsample.1"],
        ["last=2", "trains", "from", "layer4.0.conv2"],
    ]
    assert hint.endswith(f"--backbone test_resnet --strategy tail:cut={chain[len(chain) * 3 // 4]['name']}")
    assert graft("stages", "cnn").stdout.endswith("--backbone cnn --strategy scratch\n")
    assert graft("stages", "resnt").exit_code == 2


@pytest.mark.slow
def test_a_network_by_name_predicts_its_own_classes(
    photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_WEIGHTS", str(weights))
    done = graft("predict", "test_resnet", photos / "disc", "--json", "-q")
    assert done.exit_code == 0, done.stderr
    want = load_published_classifier("test_resnet", offline=True).predict(sorted((photos / "disc").iterdir()))
    said = json.loads(done.stdout)
    assert [each["label"] for each in said] == [each.label for each in want]
    assert [each["probability"] for each in said] == [each.probability for each in want]


@pytest.mark.slow
def test_fit_with_the_network_as_it_is_prints_its_score(
    photos: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_WEIGHTS", str(weights))
    for source, name in (("disc", "daisy"), ("frame", "picket_fence")):
        shutil.copytree(photos / source, tmp_path / "things" / name)
    done = graft("fit", tmp_path / "things", "-o", tmp_path / "m", "-s", "direct", "--backbone", "test_resnet", "-q")
    assert done.exit_code == 0, done.output
    assert "% right on 24 images that it never saw" in done.stdout
    assert set(load(tmp_path / "m").report["seconds"]) == {"read images", "load network", "evaluate"}


# --- pipes and terminals ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly(model: Path, photos: Path) -> None:
    reader, writer = os.pipe()
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # as users have it: nothing is written before the end
    run = child("", "predict", model, photos, "-q", stdout=writer, env=buffered)
    os.close(writer)
    os.close(reader)
    _, told = run.communicate(timeout=120)
    assert (run.returncode, told) == (0, "")


@pytest.mark.fault(23, 30)
@pytest.mark.slow
def test_names_of_files_and_classes_give_the_terminal_no_orders(photos: Path, tmp_path: Path) -> None:
    """They colour, clear and rename it, and turn words round; so does nothing that graft prints or writes."""
    evil, place, orders = "<b>\x1b[31mr\x9b2J\u202e", tmp_path / "photos", set("\x1b\x9b\u202e")
    for folder in photos.iterdir():  # with control characters it would be refused
        shutil.copytree(folder, place / f"{folder.name}<b>\u202e")
    photo = next(place.glob("*/*.png"))
    broken = photo.with_name(f"broken{evil}\n.png")
    broken.write_bytes(b"none")
    model = tmp_path / "model"
    for words in (
        ["fit", place, "-o", model, "--strategy", QUICK],
        ["predict", model, photo, broken],
        ["predict", model, photo, broken, "--json"],
        ["predict", model, photo, broken, "-o", tmp_path / "a.csv"],
        ["evaluate", model, place],
        ["explain", model, photo, broken, "-o", tmp_path / f"why{evil}"],
        ["update", model, "-o", tmp_path / "2", "--rename", f"{photo.parent.name}=x<b>", "--no-report"],
        ["compare-runs", model, tmp_path / "2"],
        ["predict", model, tmp_path / evil],
    ):
        said = graft(*words)
        assert said.exception is None or isinstance(said.exception, SystemExit), (words, said.exception)
        assert not orders & set(said.output), words
        assert "\n.png" not in said.output
        assert said.exit_code == 3 * (words[-1] == tmp_path / evil), said.output
    for name in ("README.md", "report.html"):
        text = (model / name).read_text()
        assert f"{photo.parent.name.partition('<')[0]}&lt;b&gt;" in text
        assert "<b>\x1b" not in text
    assert not orders & set((model / "README.md").read_text())


def test_a_terminal_that_cannot_show_a_letter_shows_an_escape(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(photos / "disc" / "00.png", tmp_path / "日本.png")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["graft", "predict", str(model), str(tmp_path / "日本.png"), "-q"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    assert shown.getvalue().endswith(b"\\u65e5\\u672c.png\n")


@pytest.mark.fault(41, 42)
def test_offline_in_a_plain_terminal_it_opens_no_socket_and_prints_json_and_nothing_else(
    photos: Path, tmp_path: Path
) -> None:
    for name, source in (("日本 🐱", "disc"), ("naïve", "frame")):
        shutil.copytree(photos / source, tmp_path / "p" / name)
    plain = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONWARNINGS": "error"}
    words = ["fit", tmp_path / "p", "-o", tmp_path / "m é", "--strategy", QUICK, "--offline", "--json", "-q"]
    run = child(NO_SOCKET, *words, env=plain)
    out, told = run.communicate(timeout=120)
    assert (run.returncode, told) == (0, "")
    assert set(json.loads(out)["classes"]) == {"日本 🐱", "naïve"}
    assert load(tmp_path / "m é").predict(sorted((photos / "disc").iterdir()))[0].label == "日本 🐱"


def test_the_program_leaves_the_commands_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works out only the one that is asked for; called twice in one process it must know all of them again."""
    before = list(app.app.registered_commands)
    for words in (["backbones", "--help"], ["compare-runs", "-h"]):
        monkeypatch.setattr("sys.argv", ["graft", *words])
        with pytest.raises(SystemExit, match="0"):
            app.main()
    assert app.app.registered_commands == before
