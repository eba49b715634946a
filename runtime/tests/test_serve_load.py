"""The server with clients that are slow, too many or gone, with decoders that die, and with a new model."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import exported
import httpx2 as httpx
import psutil
import pytest
from exported import image
from serving import GREEN, RED, TOKEN, Running, running, said, until

from graft_runtime.serve import kserve, request_body
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.decoder import REQUEST, RESPONSE
from graft_runtime.serve.decoder_pool import DecoderPool
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.protocol import READ_BYTES, LimitedProtocol
from graft_runtime.serve.upload import SpeedMeter, Upload, UploadBuffer, client_network

HALF = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"

# --- too slow, too many -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault(43)
def test_slow_headers_and_bodies_end(file: Path) -> None:
    with running(file, Bounds(headers=0.5, body=0.5)) as server, contextlib.ExitStack() as stack:
        slow, silent, half, endless = (
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(4)
        )
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: local")
        half.sendall(HALF)
        with endless:  # refused at once, and goes on sending
            endless.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000000\r\n\r\n")
            began = time.monotonic()
            assert b"403" in endless.recv(4096)
            while time.monotonic() - began < 10:
                try:
                    endless.sendall(b"x")
                except ConnectionError:
                    break
                time.sleep(0.05)
            assert time.monotonic() - began < 5
        assert b"408" in said(slow)
        assert b"408" in said(silent)
        answer = said(half)
        assert b"408" in answer
        assert b"too_slow" in answer
        assert server.lives()
    assert Bounds().headers <= 15
    assert Bounds().body <= 60


@pytest.mark.slow
def test_who_never_reads_the_answers_takes_no_place_and_is_ended(file: Path) -> None:
    with running(file, Bounds(requests=1, answer=2)) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.setblocking(False)
        for _ in range(40):  # whatever the system holds, it is more than that
            with contextlib.suppress(OSError):
                deaf.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
            time.sleep(0.02)
        assert server.lives()
        until(lambda: ended(deaf))


def ended(connection: socket.socket) -> bool:
    try:
        connection.send(b"x")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


def test_nonsense_is_no_http(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as strange:
        strange.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"wrong_http" in said(strange)
    assert server.lives()


@contextlib.contextmanager
def holding(server: Running, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that send this and nothing more."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(count)]
        for each in held:
            with contextlib.suppress(ConnectionError):  # it gave way to one of the others
                each.sendall(sent)
        yield held


@pytest.mark.slow
def test_connections_that_only_wait_give_way_to_whoever_asks(file: Path) -> None:
    with running(file, Bounds(connections=3)) as server:
        with holding(server, 3) as silent:
            time.sleep(0.2)
            assert server.lives()
            assert b"408" in said(silent[0])  # the oldest
        with holding(server, 3, HALF) as slow:
            time.sleep(1.3)  # whoever sends for less than a second is not slow
            assert server.lives()
            assert b"408" in said(slow[0])


@pytest.mark.slow
def test_who_does_not_read_gives_way_as_well(file: Path) -> None:
    with running(file, Bounds(connections=1, answer=60)) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.setblocking(False)
        for _ in range(40):
            with contextlib.suppress(OSError):
                deaf.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
            time.sleep(0.01)
        time.sleep(1.1)
        assert server.lives()
        until(lambda: ended(deaf))


@pytest.mark.slow
def test_connections_that_are_at_work_are_not_closed_for_others(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(file, Bounds(connections=3)) as server, ThreadPoolExecutor(3) as pool:
        slowed(server, monkeypatch, 1.0)
        busy = [pool.submit(server.post, content=RED) for _ in range(3)]
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", server.port)) as more:
            answer = said(more)
        assert b"503" in answer
        assert b"retry-after: 1" in answer
        assert [each.result().status_code for each in busy] == [200] * 3
        assert server.lives()


@pytest.mark.slow
@pytest.mark.fault(43)
def test_bodies_that_arrive_slowly_take_the_places_of_nobody(file: Path) -> None:
    with running(file, Bounds(requests=4)) as server, holding(server, 130, HALF):
        time.sleep(0.3)
        assert server.lives()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: server.post(content=RED).status_code, range(16)))
        assert found == [200] * 16


@pytest.mark.slow
def test_strangers_who_are_silent_keep_out_nobody_with_a_token(file: Path) -> None:
    shown = {"authorization": f"Bearer {TOKEN}"}
    with running(file, Bounds(connections=40), token=TOKEN) as server:
        for sent in (b"", b"POST /v1/predict HTTP/1.1\r\nHost: l", HALF):
            with holding(server, 60, sent):
                time.sleep(0.2)
                for _ in range(5):
                    assert server.post(content=RED, headers=shown).status_code == 200


@pytest.mark.slow
def test_bytes_that_lie_about_make_room_for_those_that_arrive(file: Path) -> None:
    much = HALF.replace(b"1000", b"10000") + bytes(4000)
    with running(file, Bounds(held=len(RED) + 9000)) as server, holding(server, 2, much) as slow:
        time.sleep(0.3)
        assert server.post(content=RED + bytes(5000)).status_code == 503  # they have had less than a second
        time.sleep(1.2)
        assert server.post(content=RED + bytes(5000)).status_code == 200
        answers = [b"too_slow" in said(each) for each in slow[:1]]
        assert answers == [True]
        assert server.lives()


def test_of_many_addresses_the_one_that_holds_most_gives_way() -> None:
    async def ended() -> list[bool]:
        room, clock = UploadBuffer(100), asyncio.get_running_loop().time
        shares = [Upload(room, name) for name in ("a", "b", "b")]
        room.uploads.update(shares)
        for each, size in zip(shares, (40, 30, 29), strict=True):
            each.add_bytes(size)
            each.timeout = asyncio.timeout(100)
            await each.timeout.__aenter__()
            each.speed.since = clock() - 2
        Upload(room, "c").add_bytes(20)
        return [not each.held for each in shares]

    assert asyncio.run(ended()) == [False, True, False]


@pytest.mark.parametrize(
    ("client", "want"),
    [
        (("1.2.3.4", 80), "1.2.3.4"),
        (("2001:db8:1:2:3:4:5:6", 80), "2001:db8:1:2::/64"),
        (("::ffff:1.2.3.4", 80), "1.2.3.4"),
        (("", 0), ""),
        (None, ""),
    ],
)
def test_a_machine_has_one_address(client: Any, want: str) -> None:
    assert client_network(client) == want


def test_speed_is_that_of_the_last_second() -> None:
    meter = SpeedMeter(0.0)
    assert not meter.is_slow(0.9)
    assert meter.is_slow(1.1)
    meter.count(10**6, 1.2)
    assert not meter.is_slow(2.0)
    for tenth in range(22, 100, 9):  # one byte now and then is no speed
        meter.count(1, tenth / 10)
    assert meter.is_slow(10.0)


def slowed(server: Running, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """The network takes this long; what it judged, run by run."""
    predictor, runs = server.model.served.predictor, list[int]()
    run = predictor.run

    def slow(images: Any, outputs: Any) -> Any:
        runs.append(len(images))
        time.sleep(seconds)
        return run(images, outputs)

    monkeypatch.setattr(predictor, "run", slow)
    return runs


@pytest.mark.slow
def test_overload_is_shed_and_whoever_is_let_in_is_answered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(file, Bounds(requests=12, waiting=12)) as server:
        runs = slowed(server, monkeypatch, 0.1)
        with ThreadPoolExecutor(48) as pool:
            answers = list(pool.map(lambda _: server.post(content=RED), range(60)))
        good = [each for each in answers if each.status_code == 200]
        shed = [each for each in answers if each.status_code == 429]
        assert len(good) + len(shed) == 60
        assert len(shed) > 20
        assert all(int(each.headers["retry-after"]) >= 1 for each in shed)
        assert sum(runs) == len(good) >= 12
        assert all(each.json()["predictions"][0]["label"] == "red" for each in good)
        assert max(runs) > 1  # they went through the network together
        assert server.lives()


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(file, Bounds(answer=1.0)) as server, monkeypatch.context() as patched:
        assert server.lives()  # the decoder is there
        slowed(server, patched, 1.5)
        answer = server.post(content=RED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert "retry-after" in answer.headers
        patched.undo()
        time.sleep(0.5)
        assert server.lives()


@pytest.mark.slow
def test_few_images_lie_decoded_before_the_network(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(file, Bounds(decoded=2)) as server, ThreadPoolExecutor(4) as pool:

        def decoded() -> float:
            found = re.search(r'graft_seconds_count{stage="decode"} (\S+)', server.get("/metrics").text)
            return float(found[1]) if found else 0

        slowed(server, monkeypatch, 1.0)
        asked = [pool.submit(server.post, content=RED) for _ in range(4)]
        until(lambda: decoded() >= 1)
        time.sleep(0.4)
        assert 1 <= decoded() <= 2
        assert [each.result().status_code for each in asked] == [200] * 4


def test_bytes_of_all_requests_together_are_bounded(file: Path) -> None:
    with running(file, Bounds(held=1000)) as server:
        assert server.post(content=b"0" * 2000).status_code == 503
        assert server.post(content=RED).status_code == 200  # what was held has been given back


@pytest.mark.slow
def test_a_client_that_is_gone_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(file) as server, ThreadPoolExecutor(1) as pool:

        def figure(name: str) -> float:
            found = re.search(rf"^graft_{re.escape(name)} (\S+)", server.get("/metrics").text, re.MULTILINE)
            return float(found[1]) if found else 0

        assert server.lives()  # the decoder is there
        runs = slowed(server, monkeypatch, 1.0)
        decoded = figure('seconds_count{stage="decode"}')
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(RED)}\r\n\r\n".encode()
        first = pool.submit(server.post, content=GREEN)
        until(lambda: runs == [1])
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(head + RED)
            until(lambda: figure('seconds_count{stage="decode"}') == decoded + 2)
        assert first.result().json()["predictions"][0]["label"] == "green"
        until(lambda: figure("waiting_images") == 0)
        assert server.post(content=GREEN).json()["predictions"][0]["label"] == "green"
        assert runs == [1, 1]  # of the two that waited for an answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "path"),
    [
        (request_body, "_images_from_json", "/v1/predict"),
        (kserve, "parse_request", "/v2/models/colours/infer"),
    ],
)
def test_who_sends_long_json_keeps_nobody_waiting(
    file: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, path: str
) -> None:
    def slow(*_: Any) -> Any:
        time.sleep(1.2)
        raise RequestError(400, "wrong_json", "That was long.")

    monkeypatch.setattr(module, name, slow)
    with running(file) as server, ThreadPoolExecutor(1) as pool:
        assert server.lives()
        long = pool.submit(server.post, path, json={})
        time.sleep(0.3)
        assert server.lives()
        assert not long.done()
        assert long.result().status_code == 400


def test_a_connection_is_read_little_by_little(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, received = list[int](), LimitedProtocol.data_received

    def noted(self: LimitedProtocol, data: bytes) -> None:
        sizes.append(len(data))
        received(self, data)

    monkeypatch.setattr(LimitedProtocol, "data_received", noted)
    assert server.post(content=RED + bytes(2**20)).status_code == 200
    assert sum(sizes) > 2**20
    assert max(sizes) <= READ_BYTES


# --- decoders of their own --------------------------------------------------------------------------------------------


def decoders() -> list[int]:
    children = psutil.Process().children()
    return [each.pid for each in children if each.is_running() and "graft_runtime.serve.decoder" in each.cmdline()]


@pytest.mark.slow
@pytest.mark.fault(39)
def test_decoders_that_are_killed_cost_no_image(file: Path) -> None:
    before = set(decoders())
    with running(file) as server:
        for _ in range(3):
            assert server.lives()
            (own,) = set(decoders()) - before
            os.kill(own, signal.SIGKILL)
        assert server.lives()
    assert set(decoders()) <= before  # none is left behind


@pytest.mark.fault(39)
@pytest.mark.skipif(os.name != "posix", reason="needs the program false")
def test_an_image_that_ends_two_decoders_is_at_fault(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with running(file) as server:
        answer = server.post(content=RED)
        assert answer.status_code == 422
        assert answer.json()["predictions"][0]["fault"] == "too costly to decode: the decoder gave up"


@pytest.mark.fault(44)
def test_no_file_left_to_start_a_decoder_with_is_told_as_busy(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_: DecoderPool) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    before = set(decoders())
    with running(file) as server:
        with monkeypatch.context() as patched:
            patched.setattr(DecoderPool, "_start_process", full)
            (own,) = set(decoders()) - before
            os.kill(own, signal.SIGKILL)
            answer = server.post(content=RED)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
            assert answer.headers["retry-after"] == "1"
        assert server.lives()


@pytest.mark.slow
@pytest.mark.fault(39)
def test_a_decoder_that_takes_too_long_is_ended(file: Path) -> None:
    with running(file, Bounds(decode=0.0)) as server:
        answer = server.post(content=RED)
        assert answer.status_code == 422
        assert answer.json()["predictions"][0]["fault"] == "too costly to decode: it takes too long"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is kept by Linux")
def test_a_decoder_has_a_limit_of_memory(file: Path, server: Running) -> None:
    large = image((90, 10, 10), (4400, 4400))
    assert server.post(content=large).json()["predictions"][0]["fault"] == ""
    command = [sys.executable, "-W", "ignore", "-m", "graft_runtime.serve.decoder", str(2**40)]
    alone = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | alone) as decoder:
        assert decoder.stdin
        assert decoder.stdout
        decoder.stdin.write(REQUEST.pack(64, 10**6, len(RED)) + RED)
        decoder.stdin.flush()
        assert RESPONSE.unpack(decoder.stdout.read(RESPONSE.size)) == (True, 30, 40)
        taken = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{decoder.pid}/status").read_text())
        assert taken
        decoder.kill()
    with running(file, Bounds(memory=int(taken[1]) * 1024 + 60 * 2**20)) as small:
        assert "too costly to decode" in small.post(content=large).json()["predictions"][0]["fault"]
        assert small.lives()


# --- a new model ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault(44)
def test_a_new_file_takes_over_without_a_lost_request(tmp_path: Path) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "new"
    path.write_bytes(exported.file())
    with running(path) as server, ThreadPoolExecutor(4) as pool:
        stop, answers = threading.Event(), list[httpx.Response]()

        def ask() -> None:
            while not stop.is_set():
                answers.append(server.post(content=RED))

        busy = [pool.submit(ask) for _ in range(4)]
        other.write_bytes(exported.file(classes=("rot", "grün", "blau")))
        other.replace(path)
        until(lambda: bool(answers) and answers[-1].json()["predictions"][0]["label"] == "rot")
        path.write_bytes(b"no model")
        until(lambda: 'graft_reloads_total{outcome="refused"} 1.0' in server.get("/metrics").text)
        stop.set()
        for each in busy:
            each.result()
        assert {each.status_code for each in answers} == {200}
        assert server.get("/v1/model").json()["classes"][0] == "rot"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "new"
    path.write_bytes(exported.file())
    with running(path) as server:
        os.mkfifo(other)
        other.replace(path)
        time.sleep(2)
        assert server.lives()
        other.write_bytes(exported.file(classes=("rot", "gruen", "blau")))
        other.replace(path)
        until(lambda: server.get("/v1/model").json()["classes"][0] == "rot")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_a_file_whose_name_is_no_text_is_served(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"fl\xfcr.onnx")
    path.write_bytes(exported.file())
    with running(path) as server:
        assert server.lives()
        assert server.get("/v1/model").json()["name"] == "fl?r"
        assert 'name="fl?r"' in server.get("/metrics").text
