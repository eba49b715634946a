"""The server as a program of its own: its start, its token, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import exported
import httpx2 as httpx
import pytest
from serving import RED, Running, said

from graft_runtime.cli import main
from graft_runtime.serve.request_body import JSON
from graft_runtime.serve.server import _listen


@contextmanager
def program(*words: str, under: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [*under, sys.executable, "-m", "graft_runtime", "serve", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_program_answers_what_is_under_way_and_ends_well(file: Path, end: signal.Signals) -> None:
    with program(str(file), "--port", "0") as (process, line):
        address = urlsplit(line.split()[-1])
        assert line.startswith(f"{file} answers at http://127.0.0.1:")
        assert address.port
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(RED)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", address.port)) as client:
            client.sendall(head + RED[:20])
            time.sleep(0.3)
            process.send_signal(end)
            time.sleep(0.3)
            client.sendall(RED[20:])
            answer = said(client)
            assert b'"label":"red"' in answer
            assert b"\r\nconnection: close\r\n" in answer  # so that the client sends its next request elsewhere
        assert process.wait(20) == 0
        assert process.stderr
        assert json.loads(process.stderr.read().splitlines()[-1])["status"] == 200


@pytest.mark.slow
def test_a_server_says_where_it_keeps_corrections(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "corrected"
    with program(str(file), "--port", "0", "--corrections", str(kept)) as (process, _):
        assert process.stdout
        assert process.stdout.readline() == f"Corrected images are kept in {kept}/CLASS/.\n"


@pytest.mark.slow
def test_a_server_for_others_makes_a_token(file: Path) -> None:
    with program(str(file), "--port", "0", "--host", "0.0.0.0") as (_, line):
        address = urlsplit(line.split()[-1])
        token = address.fragment.partition("token=")[2]
        assert len(token) > 20
        url = f"http://127.0.0.1:{address.port}/v1/predict"
        assert httpx.post(url, content=RED).status_code == 401
        assert httpx.post(url, content=RED, headers={"authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.slow
def test_a_mistake_at_the_start_is_the_exit_code_of_the_program(file: Path) -> None:
    command = [sys.executable, "-m", "graft_runtime", "serve", str(file), "--token", "short"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, "at least 16 ASCII characters" in found.stderr) == (2, True), found.stderr


def test_mistakes_at_the_start_are_told(
    file: Path, tmp_path: Path, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:-100])
    (tmp_path / "bare.onnx").write_bytes(exported.file(preprocess={}))
    (tmp_path / "six.onnx").write_bytes(exported.file(classes=tuple("abcdef")))
    (tmp_path / "far.onnx").write_bytes(exported.with_external_data())
    for words, code, why in (
        ([str(file), "--port", str(server.port)], 6, "Choose another --port"),
        ([str(file), "--token", "short"], 2, "at least 16 ASCII characters"),
        ([str(file), "--token", "ein-Schlüssel-mit-Umlaut"], 2, "at least 16 ASCII characters"),
        ([str(tmp_path / "bare.onnx")], 5, "its preprocessing lacks 'size'"),
        ([str(tmp_path / "six.onnx")], 5, "it names 6 classes, and its output 'probabilities' has ['n', 3]"),
        ([str(tmp_path / "cut.onnx")], 5, "is no classifier that can be used"),
        ([str(tmp_path / "far.onnx")], 5, "lie in other files"),
        ([str(tmp_path / "none.onnx")], 5, "cannot be read"),
        ([str(file), "--port", "0", "--corrections", str(file)], 6, f"Corrections cannot be kept in {file}"),
        ([str(file), "--host", "no.such.host.invalid"], 6, "There is no address"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *words])
        told = capsys.readouterr().err
        assert (ended.value.code, why in told) == (code, True), told
        assert "Traceback" not in told


def test_without_decoders_it_does_not_say_that_it_answers(file: Path) -> None:
    code = f"""
from graft_runtime.cli import main
from graft_runtime.serve.decoder_pool import DecoderPool
async def start(self): raise OSError(24, "Too many open files")
DecoderPool.start = start
main(["serve", {str(file)!r}, "--port", "0"])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (6, "")
    log, told = found.stderr.splitlines()
    assert "Too many open files" in json.loads(log)["error"]
    assert told == "graft-runtime: The server cannot start; the last line of its log says why."


@pytest.mark.slow
@pytest.mark.fault(44)
@pytest.mark.skipif(os.name != "posix", reason="needs a limit of open files")
def test_a_server_with_few_files_to_open_goes_on_answering(file: Path) -> None:
    limited = ("sh", "-c", 'ulimit -n 160; exec "$@"', "sh")
    with program(str(file), "--port", "0", under=limited) as (process, line), contextlib.ExitStack() as stack:
        address = urlsplit(line.split()[-1])
        assert address.port
        for _ in range(300):  # more than there can be, and silent
            stack.enter_context(socket.create_connection(("127.0.0.1", address.port)))
        for _ in range(10):
            answer = httpx.post(f"{line.split()[-1]}v1/predict", content=RED, timeout=20)
            assert (answer.status_code, answer.json()["predictions"][0]["label"]) == (200, "red")
        assert process.poll() is None


@pytest.mark.slow
def test_a_number_of_a_thousand_digits_is_not_read(file: Path) -> None:
    with program(str(file), "--port", "0") as (_, line):
        answer = httpx.post(f"{line.split()[-1]}v1/predict", content=b"1" * 1000, headers={"content-type": JSON})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_json")
        assert "640 digits" in answer.json()["error"]["message"]


def test_connections_send_at_once() -> None:
    with _listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
