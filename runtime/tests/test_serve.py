"""The server, as clients meet it: over sockets, with good images and bad ones."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import openapi_spec_validator
import pytest
from exported import image
from PIL import Image
from serving import GREEN, RED, TOKEN, Running, running, said, until

from graft_runtime.image import ImageError, decode
from graft_runtime.predictor import Predictor
from graft_runtime.serve import openapi
from graft_runtime.serve.app import Endpoints, _routes
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.corrections import store_image

# --- the same answers as without a server -----------------------------------------------------------------------------


def test_every_way_of_sending_gives_the_answers_of_the_runtime(server: Running, file: Path) -> None:
    want = [each.as_dict() for each in Predictor(file.read_bytes()).predict([RED, GREEN], coverage=0.9)]
    encoded = [base64.b64encode(data).decode() for data in (RED, GREEN)]
    path = "/v1/predict?coverage=0.9"
    for answer in (
        server.post(path, files=[("a", ("image 0", RED)), ("a", ("image 1", GREEN))]),
        server.post(path, json={"images": encoded}),
        server.post(path, json={"images": [f"data:image/png;base64,{text}" for text in encoded]}),
    ):
        assert answer.status_code == 200
        assert answer.json()["predictions"] == want
    assert server.post(path, content=RED, headers={"content-type": "image/png"}).json()["predictions"] == want[:1]
    assert server.post(path, content=RED, headers={"content-type": "whatever"}).json()["predictions"] == want[:1]


def test_the_share_of_unknown_is_the_clients(server: Running) -> None:
    bright = image((240, 240, 240))
    found = [server.post(content=bright, params=each).json()["predictions"][0] for each in ({}, {"unknown": "0"})]
    assert [each["unknown"] for each in found] == [True, False]


@pytest.mark.slow
def test_images_of_many_requests_keep_their_answers(server: Running) -> None:
    colours = [(number % 7 * 20, number % 5 * 30, number % 3 * 40 + 5) for number in range(60)]
    files = [image(colour, (20 + number % 3, 30)) for number, colour in enumerate(colours)]
    want = [each.answer for each in server.model.served.predictor.predict(files)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda data: server.post(content=data).json()["predictions"][0], files))
    assert [each["probabilities"] for each in got] == [each.probabilities for each in want if each]


def test_the_model_and_its_limits_are_told(server: Running) -> None:
    about = server.get("/v1/model").json()
    assert about["classes"] == ["red", "green", "blue"]
    assert about["limits"] == {"bytes": 20_000_000, "pixels": 20_000_000, "images": 32}
    assert (about["unknown"], about["sets"], about["heat"], about["corrections"]) == (True, True, False, True)


# --- what is wrong with a request, and the next one -------------------------------------------------------------------

FORM = {"content-type": "multipart/form-data; boundary=x"}
JSON = {"content-type": "application/json"}


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "empty"),
        (b"", JSON, 400, "wrong_json"),
        (b"{", JSON, 400, "wrong_json"),
        (b"[" * 100_000, JSON, 400, "wrong_json"),
        (b'{"images": "x"}', JSON, 400, "wrong_json"),
        (b"[" + b"[]," * 600_000 + b"0]", JSON, 413, "too_large"),
        (b"--x--", {"content-type": "multipart/form-data; boundary=x; charset=idna"}, 400, "wrong_form"),
        (b'{"images": []}', JSON, 400, "empty"),
        (b'{"images": ["zz!"]}', JSON, 400, "wrong_base64"),
        (json.dumps({"images": ["QQ=="] * 33}).encode(), JSON, 413, "too_many"),
        (b"no form", FORM, 400, "wrong_form"),
        (b"", {"content-type": "multipart/form-data"}, 400, "wrong_form"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n', FORM, 400, "empty"),
        (b"0" * (20_000_000 + 1), {}, 413, "too_large"),
    ],
)
def test_a_bad_body_gets_its_status_and_the_next_request_its_answer(
    server: Running, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = server.post(content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert len(answer.json()["error"]["message"]) > 20
    assert server.lives()


def test_an_image_that_cannot_be_read_says_why(server: Running) -> None:
    alone = server.post(content=b"no image")
    assert (alone.status_code, alone.json()["predictions"][0]["fault"]) == (422, "not an image")
    among = server.post(files=[("a", ("good", RED)), ("a", ("bad", RED[:-30])), ("a", ("empty", b""))])
    assert among.status_code == 200
    faults = [each["fault"] for each in among.json()["predictions"]]
    assert faults[0] == ""
    assert faults[1].startswith(("truncated", "damaged"))
    assert faults[2] == "empty file"


@pytest.mark.slow
def test_the_photo_of_an_iphone_is_answered(server: Running, file: Path, shared: Path) -> None:
    pytest.importorskip("pi_heif")
    photo = (shared / "cases/files/heic/pizza/1.heic").read_bytes()
    want = Predictor(file.read_bytes()).predict(photo)[0].probabilities
    got = server.post(content=photo).json()["predictions"][0]["probabilities"]
    assert got == pytest.approx(want, abs=1e-6)


@pytest.mark.slow
@pytest.mark.fault(17)
def test_a_bomb_is_refused_and_a_large_photo_is_not(server: Running) -> None:
    bomb, photo = io.BytesIO(), io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    Image.new("RGB", (8_000, 6_000), (90, 10, 10)).save(photo, "JPEG")
    refused = server.post(content=bomb.getvalue())
    assert refused.status_code == 422
    assert "20 megapixels" in refused.json()["predictions"][0]["fault"]
    assert server.post(content=photo.getvalue()).json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("query", ["coverage=2", "coverage=x", "unknown=-1", "unknown=nan", "coverage=0", "unknown=1"])
def test_an_option_that_cannot_be_is_refused(server: Running, query: str) -> None:
    answer = server.post(f"/v1/predict?{query}", content=RED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "wrong_option")


def test_a_path_or_method_that_is_not_there(server: Running) -> None:
    assert server.get("/nothing").status_code == 404
    assert server.get("/../../etc/passwd").status_code == 404
    assert server.get("/v1/predict").status_code == 405
    assert server.post("/v1/model").json()["error"]["code"] == "wrong_method"
    assert server.get("/v1/predict").headers["allow"] == "POST"
    assert server.get("/v1/model/").status_code == 404  # no detour by plain HTTP, where a proxy speaks TLS


def raw(server: Running, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        return said(connection)


def test_a_target_may_be_a_whole_address_and_its_host_counts(server: Running) -> None:
    text = "GET {} HTTP/1.1\nHost: {}\nConnection: close\n\n"
    own = f"http://127.0.0.1:{server.port}"
    for target in (own + "/v1/model", own + "/v1%2Fmodel?x=1", "HTTP://localhost/v1/model"):
        answer = raw(server, text.format(target, "evil.example"))
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["name"] == "colours"
    assert raw(server, text.format(own, "localhost")).endswith(b"</html>\n")
    assert b"wrong_host" in raw(server, text.format("http://evil.example/v1/model", "localhost"))
    assert b"not_found" in raw(server, text.format("/http://localhost/v1/model", "localhost"))


def test_a_body_of_two_lengths_is_refused_and_its_connection_closed(server: Running) -> None:
    head = "POST /v1/predict HTTP/1.1\nHost: localhost\nContent-Length: 3\nTransfer-Encoding: chunked\n\n"
    answer = raw(server, head + "3\nabc\n0\n\nGET /v1/model HTTP/1.1\nHost: localhost\n\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.fault(43)
@pytest.mark.parametrize("length", ["-5", "+5", "5, 6", "0x5", "5.0", "", "1" * 30])
def test_a_length_that_is_none_is_no_http(server: Running, length: str) -> None:
    answer = raw(server, f"POST /v1/predict HTTP/1.1\nHost: localhost\nContent-Length: {length}\n\nabcde")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert answer.count(b"HTTP/1.1") == 1
    assert server.lives()


@pytest.mark.slow
@pytest.mark.fault(43)
def test_chunks_without_end_are_too_much_and_the_connection_is_closed(file: Path) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running(file, Bounds(bytes=100_000, body=1)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as endless:
            endless.sendall(head)
            sent, begun = 0, time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - begun < 60:
                    endless.sendall(b"8000\r\n" + bytes(0x8000) + b"\r\n")
                    sent += 0x8000
                    if sent == 0x8000 * 5:
                        assert b"HTTP/1.1 413" in endless.recv(4096)
            assert time.monotonic() - begun < 30  # the three seconds that a body may take, and a slow machine's more
        assert server.lives()


@pytest.mark.slow
def test_every_messy_file_gets_what_the_decoder_says(server: Running, shared: Path) -> None:
    files = sorted(path for path in (shared / "data" / "messy").rglob("*") if path.is_file())
    assert len(files) > 200
    for path in files:
        data = path.read_bytes()
        if len(data) > 20_000_000 or not data:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                decode(data, enough=64, max_pixels=20_000_000)
            want = ""
        except ImageError as error:
            want = str(error)
        answer = server.post(content=data)
        assert answer.json()["predictions"][0]["fault"] == want, path
        assert answer.status_code == (422 if want else 200)
    assert server.lives()


def test_a_model_that_fails_is_an_error_of_this_request_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no more numbers")

    with monkeypatch.context() as patched:
        patched.setattr(server.model.served.predictor, "run", fails)
        answer = server.post(content=RED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
    assert "no more numbers" not in answer.text
    until(lambda: "no more numbers" in caplog.text)
    assert server.lives()


def test_no_memory_for_those_that_go_together_is_no_end_of_the_line(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError

    with running(file, Bounds(answer=5)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(np, "stack", fails)
            assert server.post(content=RED).status_code == 500
        assert server.lives()


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.fault(43)
def test_with_a_token_only_who_shows_it_is_answered(file: Path) -> None:
    with running(file, token=TOKEN) as server:
        wrong = ("", "Bearer wrong", TOKEN, f"Basic {TOKEN}")
        for header in ({"authorization": text} if text else {} for text in wrong):
            answer = server.post(content=RED, headers=header)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert server.get("/metrics").status_code == 401
        assert server.get("/v2/models/colours").status_code == 401
        assert server.get("/v2/health/ready").status_code == 200
        assert server.post(content=RED, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_pages_of_others_cannot_ask(server: Running) -> None:
    for host in ("evil.example", "[::1].evil.example", "localhost.evil.example:80", "localhost:80.evil", "", "[::1"):
        assert server.get("/v1/model", headers={"host": host}).status_code == 403, host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:8000"):
        assert server.get("/v1/model", headers={"host": host}).status_code == 200, host
    assert server.post(content=RED, headers={"origin": "http://evil.example"}).status_code == 403
    assert server.post(content=RED, headers={"origin": "null"}).status_code == 403
    assert server.get("/v1/model", headers={"host": "LocalHost:80"}).status_code == 200
    own = server.post(content=RED, headers={"origin": server.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    assert "default-src 'none'" in own.headers["content-security-policy"]
    assert own.headers["x-content-type-options"] == "nosniff"


# --- corrections ------------------------------------------------------------------------------------------------------


def correct(server: Running, data: bytes, label: str) -> httpx.Response:
    return server.post("/v1/corrections", files={"image": ("x.png", data)}, data={"label": label})


def test_corrections_are_folders_that_a_fit_takes(file: Path, tmp_path: Path) -> None:
    with running(file, corrections=tmp_path / "kept") as server:
        first = correct(server, RED, "green")
        assert first.status_code == 201
        assert correct(server, RED, "green").json() == first.json()
        assert correct(server, GREEN, "a new class").status_code == 201
    files = sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert [path.parent.name for path in files] == ["a new class", "green"]
    assert [path.read_bytes() for path in files] == [GREEN, RED]
    assert (tmp_path / "kept" / first.json()["stored"]).read_bytes() == RED


@pytest.mark.parametrize(
    "label",
    [
        "",
        "../up",
        "a/b",
        "a\\b",
        ".hidden",
        "dot.",
        "nul",
        "x" * 101,
        "a\nb",
        "c:",
        "\U0001f600" * 64,
        "rose\u200b",
        "COM¹",
    ],
)
def test_a_class_that_is_no_plain_name_is_refused(server: Running, label: str) -> None:
    assert correct(server, RED, label).json()["error"]["code"] == "wrong_label"


def test_a_file_in_place_of_a_class_is_told_and_kept(file: Path, tmp_path: Path) -> None:
    with running(file, corrections=tmp_path) as server:
        (tmp_path / "green").write_text("mine")
        answer = correct(server, RED, "green")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "not_stored")
        assert (tmp_path / "green").read_text() == "mine"


def test_the_same_correction_many_times_at_once_is_kept_once(tmp_path: Path) -> None:
    data = RED + bytes(3_000_000)
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            want = pool.map(lambda _, number=number: store_image(tmp_path, data, f"class {number}", ()), range(8))
            assert len(set(want)) == 1
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".png"}


def test_what_is_no_image_is_not_kept(server: Running, file: Path) -> None:
    assert correct(server, b"#!/bin/sh", "red").json()["error"]["code"] == "no_image"
    assert server.post("/v1/corrections", content=RED).status_code == 415
    assert server.post("/v1/corrections", files={"other": RED}).json()["error"]["code"] == "wrong_form"
    with running(file) as closed:
        assert correct(closed, RED, "red").status_code == 404


# --- what is told of it -----------------------------------------------------------------------------------------------


def test_the_document_has_every_route_and_no_other(server: Running) -> None:
    document = server.get("/openapi.json").json()
    assert document == openapi.DOCUMENT
    openapi_spec_validator.validate(document)
    desk = Endpoints.__new__(Endpoints)
    routes = {
        (route.path, method.lower()) for route in _routes(desk) for method in getattr(route, "methods", None) or ()
    }
    served = {(path, method) for path, method in routes if method != "head" and path.startswith(("/v", "/m"))}
    documented = {(path, method) for path, entry in openapi.PATHS.items() for method in entry if method != "parameters"}
    assert served == documented


@pytest.mark.slow
def test_the_figures_are_those_of_what_was_asked(file: Path) -> None:
    with running(file) as server:
        server.post(files=[("a", ("1", RED)), ("a", ("2", b"no image")), ("a", ("3", image((240, 240, 240))))])
        server.get("/nothing")
        until(lambda: 'status="404"} 1.0' in server.get("/metrics").text)
        text = server.get("/metrics").text
        for line in (
            'graft_requests_total{route="predict",status="200"} 1.0',
            'graft_requests_total{route="other",status="404"} 1.0',
            'graft_images_total{outcome="known"} 1.0',
            'graft_images_total{outcome="fault"} 1.0',
            'graft_images_total{outcome="unknown"} 1.0',
            'graft_seconds_count{stage="decode"} 3.0',
            'graft_seconds_count{stage="network"} 2.0',
            f'graft_model_info{{name="colours",sha256="{server.model.served.sha256}"}} 1.0',
        ):
            assert line in text


def test_the_log_has_sizes_and_no_images(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "graft.serve"):
        server.post(content=RED)
        until(lambda: bool(caplog.messages))
    line = json.loads(caplog.messages[-1])
    assert (line["path"], line["status"], line["images"], line["bytes"]) == ("/v1/predict", 200, 1, len(RED))
