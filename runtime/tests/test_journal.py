"""Answers go to a file as they are made: whatever stops the program, it goes on to the very same bytes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pytest
from PIL import Image

from graft_runtime import cli, journal, table
from graft_runtime.decide import Answer
from graft_runtime.prediction import Prediction
from graft_runtime.table import CSV, PredictOptions, WriteResult

NAMES = [*(f"{number}.png" for number in range(20)), 'a "quoted"\r\nname.png', "日本.png", "\udce9.png", "=1.png"]
CHANCES = {"red": 0.7, "green": 0.3}


class Oracle:
    """Answers by the place in its block: whoever goes on elsewhere than at a block's beginning answers otherwise."""

    classes, identity, card = tuple(CHANCES), "oracle", exported.card()

    def __init__(self, most: int = 10**9) -> None:
        self.most = most  # images, after which it is interrupted

    def predict_blocks(
        self, images: Any, *, start: int = 0, coverage: float | None = None, unknown: float = 0.05
    ) -> Iterator[list[Prediction]]:
        at = start
        while at < len(images):
            block = images[at : at + 1 + at % 4]
            if at + len(block) > self.most:
                raise KeyboardInterrupt
            yield [self.said(name, place) for place, name in enumerate(block)]
            at += len(block)

    def said(self, name: str, place: int) -> Prediction:
        if name.startswith("7"):
            return Prediction(name, None, "not an image")
        return Prediction(name, Answer("red", 0.7 - place / 10, CHANCES, ("red",), ("red", "green")))


def write(
    place: Path,
    judge: Any = None,
    names: list[str] = NAMES,
    asked: PredictOptions = PredictOptions(),  # noqa: B008
    **how: bool,
) -> WriteResult:
    return table.write_predictions(
        judge or Oracle(), names, place, asked, lambda things, _before, _count: things, CSV, **how
    )


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """What a run that nobody stops writes."""
    (tmp_path / "whole").mkdir()
    found = write(tmp_path / "whole/a.csv")
    assert (found.answers, found.faults, found.before, found.examples) == (24, 1, 0, (("7.png", "not an image"),))
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["a.csv"]
    return (tmp_path / "whole/a.csv").read_bytes()


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Where a run was interrupted after some images."""
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.csv", Oracle(12))
    assert not (tmp_path / "a.csv").exists()
    return tmp_path / "a.csv"


def parts(place: Path) -> tuple[Path, Path]:
    return place.with_name("a.csv.part"), place.with_name("a.csv.part.log")


# --- going on ---------------------------------------------------------------------------------------------------------


def test_what_was_answered_is_kept_and_the_rest_follows(stopped: Path, whole: bytes) -> None:
    kept = parts(stopped)[0].read_bytes()
    assert whole.startswith(kept)
    assert kept.count(b"\r\n") > 8
    found = write(stopped, resume=True)
    assert stopped.read_bytes() == whole
    assert (found.answers, found.faults, found.before) == (24, 1, kept.count(b"\r\n") - 1)
    assert not any(part.exists() for part in parts(stopped))


@pytest.mark.slow
def test_wherever_the_files_end_it_goes_on_to_the_same_bytes(stopped: Path, whole: bytes) -> None:
    rows, log = (part.read_bytes() for part in parts(stopped))
    rng = random.Random(0)
    ends = [(end, len(log)) for end in range(len(rows))] + [
        (len(rows), end) for end in range(log.index(b"\n") + 1, len(log))
    ]
    for end, end_of_log in ends:
        for part, content in zip(parts(stopped), (rows[:end], log[:end_of_log]), strict=True):
            part.write_bytes(content + rng.randbytes(5) * (end % 2))
        write(stopped, resume=True)
        assert stopped.read_bytes() == whole, (end, end_of_log)
        stopped.unlink()


def test_rows_that_a_power_cut_made_empty_are_made_anew(stopped: Path, whole: bytes) -> None:
    part = parts(stopped)[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    part.write_bytes(content)
    assert 0 < write(stopped, resume=True).before < 11
    assert stopped.read_bytes() == whole


def test_resume_without_anything_to_go_on_with_begins(tmp_path: Path, whole: bytes) -> None:
    write(tmp_path / "a.csv", resume=True)
    assert (tmp_path / "a.csv").read_bytes() == whole


def test_everything_was_answered_and_only_the_name_was_missing(tmp_path: Path, whole: bytes) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.write_predictions(
            Oracle(),
            NAMES,
            tmp_path / "a.csv",
            PredictOptions(),
            lambda things, *_: things,
            table.TableFormat(CSV.is_ours, CSV.cell, killed),
        )
    assert write(tmp_path / "a.csv", resume=True).before == 24
    assert (tmp_path / "a.csv").read_bytes() == whole


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.csv").symlink_to("disk/b.csv")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.csv", Oracle(12))
    assert [path.name for path in (tmp_path / "disk").iterdir()] != []
    assert write(tmp_path / "a.csv", resume=True).output == str(tmp_path / "a.csv")
    with pytest.raises(FileExistsError, match="there already"):
        write(tmp_path / "a.csv")
    write(tmp_path / "a.csv", force=True)
    assert (tmp_path / "a.csv").is_symlink()
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "disk").iterdir()] == [("b.csv", whole)]


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_a_part_is_neither_gone_on_with_nor_thrown_away_unasked(stopped: Path, whole: bytes) -> None:
    before = [part.read_bytes() for part in parts(stopped)]
    with pytest.raises(
        FileExistsError, match=r"a\.csv\.part is there.*--resume to go on with it, or --force to start anew"
    ):
        write(stopped)
    assert [part.read_bytes() for part in parts(stopped)] == before
    assert write(stopped, force=True).before == 0
    assert stopped.read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"asked": PredictOptions(coverage=0.9)}, "--coverage was None and is 0.9"),
        ({"asked": PredictOptions(unknown=0.0)}, "--unknown was 0.05 and is 0.0"),
        ({"asked": PredictOptions(top=1)}, "--top was 0 and is 1"),
        ({"names": NAMES[:-1]}, "the number of images was 24 and is 23, the list of images is another"),
        ({"names": NAMES[::-1]}, "otherwise: the list of images is another"),
        ({"judge": type("Other", (Oracle,), {"identity": "b" * 64})()}, "the model is another"),
    ],
)
def test_a_part_of_another_run_is_told_with_what_differs(stopped: Path, changed: dict[str, Any], says: str) -> None:
    before = [part.read_bytes() for part in parts(stopped)]
    with pytest.raises(OSError, match=f"was begun otherwise: .*{says}" if "otherwise" not in says else says):
        write(stopped, resume=True, **changed)
    assert [part.read_bytes() for part in parts(stopped)] == before


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"force": True}])
@pytest.mark.parametrize("name", ["a.csv.part", "a.csv.part.log"])
def test_no_file_of_the_users_is_touched(tmp_path: Path, name: str, how: dict[str, bool]) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="choose another name"):
        write(tmp_path / "a.csv", **how)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"mine")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(FileExistsError, match="not even --force"):
        write(tmp_path / "a.csv", force=True)


@pytest.mark.fault(35)
def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # root may all
    with pytest.raises(PermissionError, match="cannot be written to"):
        write(tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def watch(things: Iterator[Prediction], _before: int, _count: int) -> Iterator[Prediction]:
        yield from things
        (tmp_path / "a.csv").write_text("mine")

    with pytest.raises(FileExistsError, match="there already"):
        table.write_predictions(Oracle(), NAMES, tmp_path / "a.csv", PredictOptions(), watch, CSV)
    assert (tmp_path / "a.csv").read_text() == "mine"
    assert parts(tmp_path / "a.csv")[0].exists()


@pytest.mark.fault(36)
@pytest.mark.skipif(journal.fcntl is None, reason="Windows locks no file for this")
def test_two_runs_into_one_file_are_told_apart(stopped: Path) -> None:
    def second(things: Iterator[Prediction], _before: int, _count: int) -> Iterator[Prediction]:
        before = [part.read_bytes() for part in parts(stopped)]
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(OSError, match="Another run is writing to"):
                write(stopped, **how)
            assert [part.read_bytes() for part in parts(stopped)] == before
        return things

    assert table.write_predictions(Oracle(), NAMES, stopped, PredictOptions(), second, CSV, resume=True).answers == 24


@pytest.mark.fault(34)
def test_a_full_disk_is_told_and_when_there_is_room_it_goes_on(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, left = journal._write, [700]

    def full(file: Any, data: bytes) -> None:
        honest(file, data[: left[0]])
        left[0] -= len(data)
        if left[0] < 0:
            left[0] = 0
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "_write", full)
    with pytest.raises(
        OSError, match=r"a\.csv cannot be written: the disk is full\. \d+ answers are kept: the same.*--resume"
    ):
        write(tmp_path / "a.csv")
    monkeypatch.setattr(journal, "_write", honest)
    assert write(tmp_path / "a.csv", resume=True).before > 0
    assert (tmp_path / "a.csv").read_bytes() == whole


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported file, and images of changing sizes, some of them broken."""
    (tmp_path / "model.onnx").write_bytes(exported.file())
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        side = 20 + 4 * (number // 5 % 3)
        Image.fromarray(rng.integers(0, 200, (side, 30, 3), dtype=np.uint8)).save(tmp_path / f"images/{number:02}.png")
    for number in (0, 11, 12, 39):
        (tmp_path / f"images/{number:02}.png").write_bytes(b"broken")
    return tmp_path


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from graft_runtime import cli, journal
add = journal.Journal.add
def slow(self, *words):
    add(self, *words)
    print("added", flush=True)
    time.sleep(0.2)
journal.Journal.add = slow
cli.main()
"""


@pytest.mark.slow
@pytest.mark.fault(40)
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_from_outside_and_resumed_is_never_stopped(folder: Path, how: signal.Signals, code: int) -> None:
    words = ["predict", str(folder / "model.onnx"), str(folder / "images")]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "-o", str(folder / "whole.csv")])
    cut = folder / "cut.csv"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SLOW, *words, "-o", str(cut)], **pipe) as process:
        assert process.stdout
        assert process.stderr
        for _ in range(4):
            assert process.stdout.readline() == "added\n"
        process.send_signal(how)
        assert process.wait(60) == code
        said = process.stderr.read()
    assert ("the same command with --resume goes on" in said) == (code == 130)
    assert not cut.exists()
    with pytest.raises(SystemExit, match="6"):
        cli.main([*words, "-o", str(cut)])
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "-o", str(cut), "--resume"])
    assert cut.read_bytes() == (folder / "whole.csv").read_bytes()


def test_from_the_start_of_any_block_the_rest_are_the_same(folder: Path) -> None:
    from graft_runtime.predictor import load

    model, paths = load(folder / "model.onnx"), sorted((folder / "images").iterdir())
    blocks, at = list(model.predict_blocks(paths)), 0
    assert len(blocks) == 8
    for number, block in enumerate(blocks):
        assert list(model.predict_blocks(paths, start=at)) == blocks[number:]
        at += len(block)


@pytest.mark.fault(5)
def test_a_file_that_vanishes_gets_its_fault_in_its_row(folder: Path) -> None:
    from graft_runtime.predictor import load

    paths = [str(path) for path in sorted((folder / "images").iterdir())]
    os.unlink(paths[3])
    found = table.write_predictions(
        load(folder / "model.onnx"), paths, folder / "a.csv", PredictOptions(), lambda things, *_: things, CSV
    )
    assert (found.answers, found.faults) == (40, 5)
    line = (folder / "a.csv").read_text(encoding="utf-8").splitlines()[4]
    assert line == f"{paths[3]},,0.0,cannot be read: No such file or directory,,,,"


def test_progress_on_standard_error_and_parquet_is_for_graft(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PROGRESS_DELAY", 0.0)
    monkeypatch.setattr(cli, "PROGRESS_INTERVAL", 0.0)
    words = ["predict", str(folder / "model.onnx"), str(folder / "images")]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "-o", str(folder / "a.csv"), "--top", "1"])
    out, lines = capsys.readouterr()
    assert not out
    assert lines.splitlines()[0].startswith("1 of 40 images, ")
    assert lines.splitlines()[39].startswith("40 of 40 images, ")
    assert lines.splitlines()[-1].startswith("40 answers, 4 of them faults")
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "-o", str(folder / "a.parquet")])
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--resume"])


@pytest.mark.slow
def test_names_that_are_no_unicode_are_printed_and_whoever_has_seen_enough_may_go(folder: Path) -> None:
    place = folder / "odd"
    place.mkdir()
    (place / os.fsdecode(b"\xe9.png")).write_bytes((folder / "images/01.png").read_bytes())
    words = [sys.executable, "-m", "graft_runtime", "predict", folder / "model.onnx"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*words, place], capture_output=True, env=strict, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.rstrip().endswith(b"odd/\\udce9.png")
    for last in ([], ["--json"]):
        with subprocess.Popen([*words, folder / "images", *last], stdout=-1, stderr=-1) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.close()
            assert (process.wait(60), process.stderr.read()) == (0, b"")


MEASURED = """
from graft_runtime import cli
try:
    cli.main()
finally:
    status = open("/proc/self/status").read()  # the peak that getrusage tells begins with that of the parent
    print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of one process")
def test_memory_does_not_grow_with_the_number_of_images(folder: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        place = folder / f"many-{count}"
        place.mkdir()
        for number in range(count):
            os.link(folder / "images/01.png", place / f"{number:06}.png")
        words = ["predict", folder / "model.onnx", place, "-o", folder / f"{count}.csv"]
        command = [sys.executable, "-c", MEASURED, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
        assert (folder / f"{count}.csv").read_bytes().count(b"\r\n") == count + 1
    assert peaks[1] - peaks[0] < 24, f"{peaks} MB: of 18,000 more images nothing but the names may be held"


@pytest.mark.parametrize("name", ["a.csv.part", "a.csv.part.log"])
@pytest.mark.parametrize("force", [False, True])
def test_a_link_that_somebody_left_at_the_name_of_the_part_is_not_followed(
    tmp_path: Path, name: str, force: bool
) -> None:
    theirs = tmp_path / "precious"
    theirs.write_bytes(b"precious")
    (tmp_path / name).symlink_to(theirs)
    with pytest.raises(OSError, match=r"a\.csv"):
        journal.Journal(tmp_path / "a.csv", {}, resume=False, force=force)
    assert theirs.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["a.csv.part", "a.csv.part.log"])
def test_a_link_to_nowhere_makes_no_file_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"a\.csv"):
        journal.Journal(tmp_path / "a.csv", {}, resume=False, force=False)
    assert not (tmp_path / "elsewhere").exists()
