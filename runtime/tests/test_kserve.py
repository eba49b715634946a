"""The Open Inference Protocol, as other clients speak it."""

from __future__ import annotations

import base64
import gzip
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from serving import GREEN, RED, Running, running

from graft_runtime.contract import PROBABILITIES
from graft_runtime.image import decode
from graft_runtime.serve import kserve
from graft_runtime.serve.bounds import MB, Bounds
from graft_runtime.serve.errors import RequestError


def test_the_open_inference_protocol_takes_files_and_pixels(server: Running) -> None:
    infer = "/v2/models/colours/infer"
    want = server.model.served.predictor.run(np.stack([decode(RED)]))[0]
    for given in (
        {"name": "file", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]},
        {"name": "image", "datatype": "UINT8", "shape": [1, 30, 40, 3], "data": decode(RED).ravel().tolist()},
        {"name": "image", "datatype": "UINT8", "shape": [1, 30, 40, 3], "data": [decode(RED).tolist()]},
    ):
        answer = server.post(infer, json={"id": "7", "inputs": [given]})
        assert answer.status_code == 200
        told = {output["name"]: output for output in answer.json()["outputs"]}
        assert answer.json()["id"] == "7"
        assert told["label"] == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["red"]}
        assert told["probabilities"]["shape"] == [1, 3]
        assert np.array_equal(np.float32(told["probabilities"]["data"]), want[0])


def test_binary_tensors_go_both_ways(server: Running) -> None:
    raw = len(RED).to_bytes(4, "little") + RED
    given = {"name": "file", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    outputs = [{"name": PROBABILITIES, "parameters": {"binary_data": True}}, {"name": "label"}]
    text = json.dumps({"inputs": [given], "outputs": outputs}).encode()
    answer = server.post(
        "/v2/models/colours/infer", content=text + raw, headers={"inference-header-content-length": str(len(text))}
    )
    size = int(answer.headers["inference-header-content-length"])
    head, tail = json.loads(answer.content[:size]), answer.content[size:]
    assert [output["name"] for output in head["outputs"]] == [PROBABILITIES, "label"]
    assert np.array_equal(np.frombuffer(tail, "<f4"), server.model.served.predictor.run(decode(RED)[None])[0][0])


def test_a_client_of_triton_gets_the_same(server: Running) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs Triton's client: pip install 'tritonclient[http]'")
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_model_ready("colours")
    pixels = decode(RED)[None]
    image = triton.InferInput("image", list(pixels.shape), "UINT8")
    image.set_data_from_numpy(pixels)
    found = client.infer("colours", [image])
    assert np.array_equal(found.as_numpy(PROBABILITIES), server.model.served.predictor.run(pixels)[0])
    (version,) = client.get_model_metadata("colours")["versions"]
    assert [client.is_model_ready("colours", each) for each in (version, "9")] == [True, False]
    for packing in ("gzip", "deflate"):
        found = client.infer("colours", [image], model_version=version, request_compression_algorithm=packing)
        assert found.as_numpy("label").tolist() == [b"red"]
    files = triton.InferInput("file", [2], "BYTES")
    files.set_data_from_numpy(np.array([RED, GREEN], dtype=np.object_))
    assert client.infer("colours", [files]).as_numpy("label").tolist() == [b"red", b"green"]


def test_a_model_is_asked_by_the_version_that_its_metadata_names(server: Running) -> None:
    about = server.get("/v2/models/colours").json()
    (version,) = about["versions"]
    own = f"/v2/models/colours/versions/{version}"
    given = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}
    assert server.get(own).json() == about
    assert server.get(f"{own}/ready").json() == {"name": "colours", "ready": True}
    answers = [server.post(f"{at}/infer", json={"inputs": [given]}) for at in (own, "/v2/models/colours")]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["model_version"] == version
    for other in ("1", version[:-1]):
        told = server.get(f"/v2/models/colours/versions/{other}")
        assert (told.status_code, other in told.json()["error"]) == (404, True)


PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
    "GZip": gzip.compress,
}


@pytest.mark.parametrize("way", PACKERS)
def test_a_packed_body_is_the_body(server: Running, way: str) -> None:
    raw = len(RED).to_bytes(4, "little") + RED
    given = {"name": "file", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [given]}).encode()
    packing = {"content-encoding": way}
    infer = {"inference-header-content-length": str(len(text))}  # of what is unpacked, as Triton's client has it
    answer = server.post("/v2/models/colours/infer", content=PACKERS[way](text + raw), headers=packing | infer)
    assert answer.json()["outputs"][0]["data"] == ["red"]
    form = httpx.Request("POST", server.url, files={"a": ("a.png", RED)})
    form.read()
    kind = {"content-type": form.headers["content-type"]}
    for content, headers in (
        (RED, {}),
        (json.dumps({"images": [base64.b64encode(RED).decode()]}).encode(), {"content-type": "application/json"}),
        (form.content, kind),
    ):
        answer = server.post(content=PACKERS[way](content), headers=packing | headers)
        assert answer.json()["predictions"][0]["label"] == "red"


@pytest.mark.slow
@pytest.mark.fault(43)
def test_what_unpacks_to_more_than_a_request_may_have_is_stopped(file: Path) -> None:
    bomb = gzip.compress(bytes(300 * MB), 1)
    assert len(bomb) < 2 * MB
    with running(file, Bounds(bytes=4 * MB, held=5 * MB)) as server:
        answer = server.post(content=bomb, headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert server.lives()
        whole = RED + bytes(4 * MB - len(RED))
        assert server.post(content=gzip.compress(whole), headers={"content-encoding": "gzip"}).status_code == 200
        more = server.post(content=gzip.compress(whole + b"0"), headers={"content-encoding": "gzip"})
        assert more.status_code == 413


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    ("content", "way", "status", "code"),
    [
        (gzip.compress(RED)[:-9], "gzip", 400, "wrong_packing"),
        (gzip.compress(RED) + b"more", "gzip", 400, "wrong_packing"),
        (b"", "gzip", 400, "wrong_packing"),
        (RED, "gzip", 400, "wrong_packing"),
        (RED, "deflate", 400, "wrong_packing"),
        (RED, "br", 415, "wrong_encoding"),
        (gzip.compress(gzip.compress(RED)), "gzip, gzip", 415, "wrong_encoding"),
    ],
)
def test_a_packing_that_cannot_be_undone_is_told(
    server: Running, content: bytes, way: str, status: int, code: str
) -> None:
    answer = server.post(content=content, headers={"content-encoding": way})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)
    assert server.lives()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "send one input"),
        ({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 2, 2, 3]}]}, "no input 'image' of the type"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 3, 2, 2]}]}, "[n, height, width, 3]"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2]}]}, "3 values"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 900]}]}, "0 to 255"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [[1], [2, 3]]}]}, "uneven"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, True]}]}, "0 to 255"),
        (
            {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 10**30]}]},
            "0 to 255",
        ),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [0, -1], "data": []}]}, "positive numbers"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1] * 5, "data": []}]}, "no list of one"),
        ({"inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": ["QQ=="] * 2}]}, "2 files"),
        ({"inputs": [{"name": "file", "datatype": "BYTES", "shape": [2], "data": ["QQ=="]}]}, "1 files"),
        ({"inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": [7]}]}, "as base64"),
        (
            {
                "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": ["QQ=="]}],
                "outputs": [{"name": "other"}],
            },
            "its outputs",
        ),
        (
            {"inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]},
            "0 bytes follow",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_with_the_reason(server: Running, given: Any, why: str) -> None:
    answer = server.post("/v2/models/colours/infer", json=given)
    assert answer.status_code == 400
    assert why in answer.json()["error"]
    assert server.lives()


def test_one_long_text_among_numbers_takes_no_memory() -> None:
    data = ["a" * 20_000, *[1] * 2_000]
    given = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 667, 3], "data": data}
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="0 to 255"):
            kserve.parse_request(json.dumps({"inputs": [given]}).encode(), {}, Bounds())
        assert tracemalloc.get_traced_memory()[1] < 10 * MB  # as an array of texts it would be 160 MB
    finally:
        tracemalloc.stop()


def test_binary_data_that_are_not_what_the_headers_say(server: Running) -> None:
    given = {"name": "file", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 40}}
    text = json.dumps({"inputs": [given]}).encode()
    infer, name = "/v2/models/colours/infer", "inference-header-content-length"
    many = server.post(infer, content=text + bytes(40), headers={name: str(len(text))})
    assert (many.status_code, "more files" in many.json()["error"]) == (400, True)
    assert server.post(infer, content=text, headers={name: "0" * 5000}).status_code == 400


def test_a_tensor_beyond_the_limits_and_a_model_that_is_not_there(server: Running) -> None:
    huge = {"name": "image", "datatype": "UINT8", "shape": [1, 10**6, 10**6, 3], "data": [0]}
    assert server.post("/v2/models/colours/infer", json={"inputs": [huge]}).status_code == 413
    many = huge | {"shape": [33, 1, 1, 3]}
    assert server.post("/v2/models/colours/infer", json={"inputs": [many]}).status_code == 413
    bad = {"name": "file", "datatype": "BYTES", "shape": [1], "data": ["QQ=="]}
    assert server.post("/v2/models/colours/infer", json={"inputs": [bad]}).status_code == 422
    assert server.get("/v2/models/other").status_code == 404
    assert kserve.build_metadata(server.model.served)["name"] == "colours"
