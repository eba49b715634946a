"""A list of URLs to class folders: every row is explained, nothing is fetched twice, a killed run goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from web import Web

from graft.cli import app
from graft.data.readers.folder import read_folder
from graft.errors import DataError, OutputError
from graft.jobs.collect import collect as job
from graft.jobs.collect.collect import CollectResult, collect
from graft.jobs.collect.fetch import FetchLimits
from graft.progress import ProgressTask


def listed(path: Path, *rows: tuple[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("url", "label"), *rows])
    return path


def manifest(folder: Path) -> list[dict[str, str]]:
    """The manifest without the moments."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name != "when"} for row in csv.DictReader(file)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, the manifest aside; hidden ones as well."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.csv"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def said(collected: CollectResult) -> list[tuple[str, str]]:
    return [(line.status, line.reason) for line in collected.rows]


@pytest.fixture
def rows(web: Web) -> list[tuple[str, str]]:
    """All 36 images of the server, with their labels."""
    return [(web.url(path), path.split("/")[1]) for path in web.files]


def test_class_folders(web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path) -> None:
    collected = collect(listed(tmp_path / "urls.csv", *rows), tmp_path / "photos", limits=quick)
    assert {line.status for line in collected.rows} == {"done"}
    for line, data in zip(collected.rows, web.files.values(), strict=True):
        assert (tmp_path / "photos" / line.file).read_bytes() == data
        suffix = ".jpg" if data.startswith(b"\xff\xd8") else ".png"
        assert line.file == f"{line.label}/{line.sha256[:16]}{suffix}"
        assert line.bytes == len(data)
    data = read_folder(tmp_path / "photos")
    assert (data.classes, data.counts().tolist()) == (("disc", "frame", "stripes"), [12, 12, 12])
    assert data.ignored == {"other files": 1}  # the manifest
    assert web.seen == Counter(web.files.keys())
    assert collected.summary()["classes"] == {"disc": 12, "frame": 12, "stripes": 12}


@pytest.mark.slow
def test_every_fault_is_named(web: Web, quick: FetchLimits, tmp_path: Path) -> None:
    expected = [
        ("file:///etc/passwd", "refused", "not http or https: file"),
        ("data:image/png;base64,AA", "refused", "not http or https: data"),
        (web.url("/status/404"), "refused", "HTTP 404"),
        (web.url("/status/410"), "refused", "HTTP 410"),
        (web.url("/status/500"), "failed", "HTTP 500"),
        (web.url("/status/503/0"), "failed", "HTTP 503"),
        (web.url("/status/204"), "refused", "HTTP 204"),
        (web.url("/html.jpg"), "refused", "a web page, no image"),
        (web.url("/empty.jpg"), "refused", "empty file"),
        (web.url("/cut.jpg"), "refused", "truncated"),
        (web.url("/huge"), "refused", "too large a file: the limit is 200,000 bytes"),
        (web.url("/bomb"), "refused", "too large a file: the limit is 200,000 bytes"),
        (web.url("/loop"), "refused", "too many redirects: more than 5"),
        (web.url("/to/file:///etc/passwd"), "refused", "redirected: not http or https: file"),
        (web.url("/to/http://me:you@host/"), "refused", "redirected: user name or password in the URL"),
        (web.url("/to/http://host:99999/"), "refused", "redirected: not a valid URL"),
        (web.url("/drip"), "failed", "timeout"),
        (web.url("/never"), "failed", "timeout"),
        (web.url("/short"), "failed", "connection broken"),
        ("", "refused", "no URL"),
    ]
    path = listed(tmp_path / "urls.csv", *((url, "cat") for url, _, _ in expected), (web.url("/x"), ""))
    collected = collect(path, tmp_path / "photos", limits=quick)
    for line, (url, status, reason) in zip(
        collected.rows, [*expected, (web.url("/x"), "refused", "no label")], strict=True
    ):
        assert (line.url, line.status) == (url, status)
        assert line.reason.startswith(reason)
    assert list(contents(tmp_path / "photos")) == []
    asked = {path: web.seen[path] for path in ("/status/404", "/status/500", "/status/503/0", "/drip", "/loop", "/x")}
    assert asked == {"/status/404": 1, "/status/500": 3, "/status/503/0": 3, "/drip": 3, "/loop": 6, "/x": 0}


def test_names_by_content_and_redirects_followed(web: Web, quick: FetchLimits, tmp_path: Path) -> None:
    web.files["/photo.php"] = web.files["/disc/01.jpg"]
    web.files["/ü ber/a b.png"] = web.files["/disc/03.jpg"]
    urls = [web.url("/to//photo.php"), web.url("/ü ber/a b.png#top"), web.url("/flaky/1")]
    collected = collect(listed(tmp_path / "u.csv", *((url, "a/b") for url in urls)), tmp_path / "photos", limits=quick)
    assert [(line.status, line.url) for line in collected.rows] == [("done", url) for url in urls]
    assert [line.final_url for line in collected.rows] == [
        web.url("/photo.php"),
        web.url("/%C3%BC%20ber/a%20b.png"),
        web.url("/flaky/1"),
    ]
    assert [Path(line.file).suffix for line in collected.rows] == [".jpg", ".jpg", ".png"]
    assert {Path(line.file).parent.name for line in collected.rows} == {"a_b"}


def test_duplicates_and_conflicts(web: Web, quick: FetchLimits, tmp_path: Path) -> None:
    web.files |= {"/copy": web.files["/disc/00.png"], "/other": web.files["/disc/00.png"]}
    first, copy, other = map(web.url, ("/disc/00.png", "/copy", "/other"))
    path = listed(tmp_path / "u.csv", (first, "cat"), (copy, "cat"), (other, "dog"), (first, "dog"), (first, "cat"))
    web.pause = 0.05
    collected = collect(path, tmp_path / "photos", limits=quick)
    assert said(collected) == [
        ("done", ""),
        ("duplicate", f"same as {first}"),
        ("conflict", f"same as {first}, which is 'cat'"),
        ("conflict", f"same as {first}, which is 'cat'"),
        ("duplicate", "listed twice"),
    ]
    assert len(contents(tmp_path / "photos")) == 1
    assert web.seen == {"/disc/00.png": 1, "/copy": 1, "/other": 1}
    assert said(collect(path, tmp_path / "photos", limits=quick)) == said(collected)
    assert web.seen.total() == 3


def test_the_second_time_only_what_may_have_passed_is_asked_for(web: Web, quick: FetchLimits, tmp_path: Path) -> None:
    paths = ["/disc/00.png", "/status/404", "/status/500", "/late", "/disc/02.png"]
    source = listed(tmp_path / "u.csv", *((web.url(path), "cat") for path in paths))
    photos = tmp_path / "photos"
    collect(source, photos, limits=replace(quick, max_attempts=1))
    assert [row["status"] for row in manifest(photos)] == ["done", "refused", "failed", "refused", "done"]
    next(photos.glob("cat/*")).unlink()  # by its user, who did not like it
    web.files["/late"] = web.files["/disc/04.png"]
    collect(source, photos, limits=replace(quick, max_attempts=1))
    assert web.seen == Counter([*paths, "/status/500"])
    assert len(contents(photos)) == 1
    collected = collect(source, photos, limits=replace(quick, max_attempts=1), retry=True)
    assert [line.status for line in collected.rows] == ["done", "refused", "failed", "done", "done"]
    assert web.seen == Counter([*paths, "/status/500", "/status/500", "/status/404", "/late"])


def test_a_list_that_changed(web: Web, quick: FetchLimits, tmp_path: Path) -> None:
    one, two, three = (web.url(f"/disc/0{number}.png") for number in (0, 2, 4))
    collect(listed(tmp_path / "u.csv", (one, "cat"), (two, "cat")), tmp_path / "photos", limits=quick)
    before = contents(tmp_path / "photos")
    collected = collect(listed(tmp_path / "u.csv", (three, "dog"), (two, "cat")), tmp_path / "photos", limits=quick)
    assert [(line.url, line.status) for line in collected.rows] == [(three, "done"), (two, "done"), (one, "done")]
    assert before.items() < contents(tmp_path / "photos").items()
    assert web.seen.total() == 3


def test_count_and_time(web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path) -> None:
    source, photos = listed(tmp_path / "urls.csv", *rows), tmp_path / "photos"
    assert collect(source, photos, limits=replace(quick, max_urls=5)).summary()["waiting"] == 31
    assert collect(source, photos, limits=replace(quick, max_urls=5)).summary()["images"] == 10
    summary = collect(source, photos, limits=replace(quick, time_limit=0)).summary()
    assert (summary["images"], summary["waiting"]) == (10, 26)
    assert web.seen.total() == 10
    assert collect(source, photos, limits=quick).summary()["images"] == 36
    assert web.seen.total() == 36


def test_a_host_is_not_overrun(web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path) -> None:
    web.pause = 0.02
    collect(listed(tmp_path / "urls.csv", *rows), tmp_path / "photos", limits=replace(quick, rate=100))
    assert 2 <= web.busiest <= quick.per_host
    assert max(web.moments) - min(web.moments) >= 0.3  # 36 requests at 100 a second


def test_a_host_that_asks_for_more_patience_than_we_have_is_asked_once(
    web: Web, quick: FetchLimits, tmp_path: Path
) -> None:
    urls = [web.url(f"/status/429/3600/{number}") for number in range(20)]
    start = time.monotonic()
    limits = replace(quick, per_host=1)
    collected = collect(listed(tmp_path / "u.csv", *((url, "cat") for url in urls)), tmp_path / "photos", limits=limits)
    assert set(said(collected)) == {("failed", "HTTP 429")}
    assert web.seen.total() == 1
    assert time.monotonic() - start < 3


def test_robots_are_obeyed(web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path) -> None:
    web.robots = (200, "User-agent: *\nDisallow: /disc/\n")
    rows = [*rows[:1], (web.url("/to//disc/02.png"), "disc"), *rows[-1:]]
    collected = collect(listed(tmp_path / "urls.csv", *rows), tmp_path / "photos", limits=quick)
    assert said(collected) == [("refused", "forbidden by robots.txt")] * 2 + [("done", "")]
    assert web.seen == {"/to//disc/02.png": 1, "/stripes/11.jpg": 1}


def test_private_addresses_unless_allowed(
    web: Web, quick: FetchLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(tmp_path / "u.csv", (web.url("/disc/00.png"), "cat"), (f"http://localhost:{web.port}/x", "cat"))
    collected = collect(path, tmp_path / "photos", limits=replace(quick, allow_private=False))
    assert [line.reason.split(":")[0] for line in collected.rows] == ["private address"] * 2
    assert not web.seen


@pytest.mark.parametrize("host", ["127.0.0.2", "169.254.169.254", "[::1]", "2130706434"])
def test_a_redirect_to_a_private_address(
    host: str, web: Web, quick: FetchLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own address counts as public here, and no other."""
    monkeypatch.setattr("graft.jobs.collect.fetch.is_public", lambda address: address == "127.0.0.1")
    limits = replace(quick, allow_private=False)
    path = listed(
        tmp_path / "u.csv",
        (web.url(f"/to/http://{host}:{web.port}/disc/00.png"), "cat"),
        (web.url("/disc/02.png"), "cat"),
    )
    collected = collect(path, tmp_path / "photos", limits=limits)
    assert [line.reason.split(":")[0] for line in collected.rows] == ["private address", ""]
    assert web.seen["/disc/00.png"] == 0


# --- what is there already --------------------------------------------------------------------------------------------


def test_files_of_the_user_stay(web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path) -> None:
    source, photos = listed(tmp_path / "urls.csv", *rows[:3]), tmp_path / "photos"
    name = Path(collect(source, tmp_path / "first", limits=quick).rows[0].file)
    (photos / "disc").mkdir(parents=True)
    (photos / "notes.txt").write_text("mine")
    (photos / name).write_text("mine too, by a very rare chance")
    before = contents(photos)
    collected = collect(source, photos, limits=quick)
    assert said(collected) == [("refused", f"another file is called so: {name.name}"), ("done", ""), ("done", "")]
    assert before.items() < contents(photos).items()


def test_places_that_cannot_be(web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path) -> None:
    source = listed(tmp_path / "urls.csv", *rows[:2])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        collect(source, tmp_path / "file", limits=quick)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.csv").write_text("a,b\n")
    with pytest.raises(OutputError, match="was not written by graft collect"):
        collect(source, tmp_path / "mine", limits=quick)
    with job._lock_output(tmp_path / "taken"), pytest.raises(OutputError, match="Another run is collecting"):
        collect(source, tmp_path / "taken", limits=quick)
    with pytest.raises(DataError, match="one folder"):
        collect(
            listed(tmp_path / "l.csv", ("http://h/1", "a/b"), ("http://h/2", "a:b")), tmp_path / "new", limits=quick
        )
    assert not (tmp_path / "new").exists()
    assert not web.seen


@pytest.mark.fault(34)
def test_a_full_disk(
    web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, photos, sync = listed(tmp_path / "urls.csv", *rows), tmp_path / "photos", os.fsync
    calls: list[int] = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 10:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"the disk is full\. What was fetched is kept: the same command goes on"):
        collect(source, photos, limits=replace(quick, threads=1))
    monkeypatch.undo()
    fetched = web.seen.total()
    assert 3 <= fetched < 10
    assert collect(source, photos, limits=quick).summary()["images"] == 36
    assert web.seen.total() <= 36 + 1


# --- interrupted ------------------------------------------------------------------------------------------------------

# What a child process does before it becomes `graft`: it dies when a function is called for the n-th time.
DYING = """
import os, signal, sys
from pathlib import Path
from graft.jobs.collect import manifest
def dies(owner, name, count):
    function, calls = getattr(owner, name), []
    def dying(*args):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    setattr(owner, name, dying)
"""


def interruptible() -> None:
    """Programs that a shell starts in the background ignore Ctrl-C, and so would those that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def child(before: str, *words: object) -> subprocess.Popen[str]:
    code = f"{before}\nfrom graft.cli import app as cli\ncli.main()"
    command = [sys.executable, "-c", code, "collect", *map(str, words), "--allow-private", "--rate", "1000"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    )


@pytest.mark.slow  # five processes, one after the other
def test_killed_at_any_moment_and_run_again_is_never_killed(
    web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path
) -> None:
    web.files["/copy"] = web.files["/disc/00.png"]
    rows = [(web.url("/copy"), "frame"), *rows, (web.url("/status/404"), "disc")]
    source = listed(tmp_path / "urls.csv", *rows)
    collect(source, tmp_path / "whole", limits=quick)
    web.seen.clear()
    moments = [
        "dies(manifest.OutcomeJournal, 'add', 9)",
        "dies(Path, 'replace', 12)",  # an image is written under its own name
        "dies(Path, 'rename', 20)",  # an image is moved into its class folder
        "dies(manifest, 'write', 1)",
        "dies(Path, 'rmdir', 1)",  # all is done but for the tidying
    ]
    for moment in moments:
        with child(DYING + moment, source, "-o", tmp_path / "broken") as process:
            assert process.wait(60) == -signal.SIGKILL
    assert "broken/.collect/journal.jsonl" not in contents(tmp_path)
    collect(source, tmp_path / "broken", limits=quick)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert manifest(tmp_path / "broken") == manifest(tmp_path / "whole")
    assert max(web.seen.values()) <= 3  # at the two first moments some were on their way
    assert sum(count > 1 for count in web.seen.values()) <= 2 * quick.threads


@pytest.mark.slow
@pytest.mark.fault(40)
def test_killed_from_outside_while_images_come(
    web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path
) -> None:
    source = listed(tmp_path / "urls.csv", *rows)
    web.pause = 0.02
    with child("", source, "-o", tmp_path / "broken") as process:
        _until(lambda: web.seen.total() > 15)
        process.kill()
    web.pause = 0
    assert not (tmp_path / "broken" / "manifest.csv").exists()
    collect(source, tmp_path / "broken", limits=quick)
    collect(source, tmp_path / "whole", limits=quick)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert manifest(tmp_path / "broken") == manifest(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c(web: Web, rows: list[tuple[str, str]], tmp_path: Path) -> None:
    source = listed(tmp_path / "urls.csv", *rows, (web.url("/drip"), "disc"))
    with child("", source, "-o", tmp_path / "photos") as process:
        _until(lambda: web.seen.total() == 37)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert (out, err) == (
        "",
        "\ngraft: stopped. What was computed so far is kept: the same command goes on from there.\n",
    )


def _until(true: Any) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- the command line -------------------------------------------------------------------------------------------------


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def test_collect_then_fit(web: Web, rows: list[tuple[str, str]], tmp_path: Path) -> None:
    rows = [*rows, (web.url("/status/404"), "disc"), (rows[0][0], "frame"), ("ftp://host/x", "disc")]
    source, photos = listed(tmp_path / "urls.csv", *rows), tmp_path / "photos"
    done = graft("collect", source, "-o", photos, "--allow-private", "--rate", 1000)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"36 images of 3 classes in {photos}",
        "",
        "  classes      disc 12, frame 12, stripes 12",
        "  conflicts    1 of the same content and another label: the first is kept",
        "  refused      2: HTTP 404 1, not http or https 1",
        f"  each URL in  {photos}/manifest.csv",
        "",
        f"Next:  graft check {photos}",
        f"       graft fit {photos} -o model/",
    ]
    done = graft("fit", photos, "-o", tmp_path / "model", "-s", "probe:head=ridge,layers=last", "--offline", "-q")
    assert done.exit_code == 0, done.output
    assert "images that it never saw" in done.output


def test_json_and_exit_codes(web: Web, rows: list[tuple[str, str]], tmp_path: Path) -> None:
    source = listed(tmp_path / "urls.csv", *rows[:2])
    done = graft("collect", source, "-o", tmp_path / "photos", "--json")
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert (report["images"], report["refused"]) == (0, {"private address": 2})
    done = graft("collect", source, "-o", tmp_path / "photos", "--json", "--allow-private", "--retry")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["classes"] == {"disc": 2}
    assert graft("collect", tmp_path / "none.csv", "-o", tmp_path / "photos").exit_code == 3
    (tmp_path / "urls.txt").write_text("http://host/")
    assert graft("collect", tmp_path / "urls.txt", "-o", tmp_path / "photos").exit_code == 2


def test_a_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("graft.jobs.collect.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "protego", None)
    done = graft("collect", tmp_path / "u.csv", "-o", tmp_path / "photos")
    assert done.exit_code == 2
    assert "pip install 'graft-vision[collect]'" in done.stderr


def test_progress_counts_what_was_done_before(
    web: Web, rows: list[tuple[str, str]], quick: FetchLimits, tmp_path: Path
) -> None:
    shown: list[tuple[str, int, int, int]] = []

    def watch(things: Iterable[Any], work: str | ProgressTask, count: int) -> Iterator[Any]:
        assert isinstance(work, ProgressTask)
        seen = list(things)
        shown.append((work.name, work.done_before, len(seen), count))
        return iter(seen)

    source = listed(tmp_path / "urls.csv", *rows)
    collect(source, tmp_path / "photos", limits=replace(quick, max_urls=10), watch=watch)
    collect(source, tmp_path / "photos", limits=quick, watch=watch)
    assert shown == [("images", 0, 10, 36), ("images", 10, 26, 36)]
