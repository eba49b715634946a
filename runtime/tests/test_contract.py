"""An exported file says what it is before anything in it runs; whatever else it may be is told."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import exported
import onnx
import onnxruntime
import pytest

from graft_runtime import contract
from graft_runtime.contract import (
    CARD,
    DIGEST,
    EVIDENCE,
    EXPORT,
    Export,
    ModelError,
    Witness,
    described,
    evidence,
    read,
)


def test_what_was_written_is_read_again() -> None:
    about = Export("int8", (0.25, 0.5), {"worst": 1e-6})
    card = exported.card(classes=("naïve", "日本", "дог"), temperature=2.5)
    assert read(described(exported.model(), card, about)) == (card, about)


def test_any_reader_of_onnx_finds_the_same_properties() -> None:
    data = exported.file()
    found = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert found.keys() == {CARD, EXPORT, DIGEST}
    onnx.checker.check_model(onnx.load_from_string(data))
    session = onnxruntime.InferenceSession(data)
    assert session.get_modelmeta().custom_metadata_map == found


def test_what_is_no_export_is_told() -> None:
    for other in (b"", b"\x89PNG\r\n\x1a\n", b"hello, world", bytes(1000)):
        with pytest.raises(ModelError):
            read(other)
    with pytest.raises(ModelError, match=r"'graft.card' among its properties"):
        read(exported.model())


def test_a_truncated_file_is_refused_wherever_it_ends() -> None:
    data = exported.file()
    for end in range(0, len(data), 7):
        with pytest.raises(ModelError):
            read(data[:end])


def test_a_changed_byte_of_the_graph_is_found() -> None:
    data = exported.file()
    at = data.index(b"numbers")
    with pytest.raises(ModelError, match="damaged"):
        read(data[:at] + b"m" + data[at + 1 :])


def test_random_damage_never_raises_anything_else() -> None:
    data, rng = exported.file(), random.Random(0)
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            read(bytes(broken))
        except ModelError:
            continue


SHOWN = (Witness("日/1.jpg", ("red",), "AAAA"), Witness("2.jpg", ("red", "blue")))


def test_evidence_is_read_again_and_a_file_without_any_has_none() -> None:
    data = described(exported.model(), exported.card(), Export(), SHOWN)
    about = read(data)[1]
    assert evidence(data, about) == SHOWN
    assert evidence(exported.file(), read(exported.file())[1]) == ()
    assert EVIDENCE.encode() not in exported.file()


def test_evidence_that_was_changed_or_lost_is_told() -> None:
    data = described(exported.model(), exported.card(), Export(), SHOWN)
    about = read(data)[1]
    for other in (data.replace(b"AAAA", b"AAAB"), exported.file()):
        with pytest.raises(ModelError, match=r"'graft\.evidence' is damaged, or not there"):
            evidence(other, about)


@pytest.mark.parametrize("wrong", ['"labels": "a"', '"labels": [3]', '"other": []', '"thumbnail": "<p>"'])
def test_evidence_that_graft_would_not_write_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f'{{"pictures": [{{"picture": "a.jpg", "labels": [], "thumbnail": null, {wrong}}}]}}'
    about = Export(evidence=hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(contract, "_properties", lambda _: {EVIDENCE: text})
    with pytest.raises(ModelError, match="is not what graft writes"):
        evidence(b"", about)


def test_newer_files_are_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"contract 2, this version reads up to 1: please update"):
        read(exported.file(replace(Export(), contract=2)))
    with pytest.raises(ModelError, match=r"schema 99.*please update"):
        read(exported.file(schema=99))


def test_tensors_in_other_files_are_refused() -> None:
    with pytest.raises(ModelError, match="in other files"):
        read(exported.with_external_data())


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"contract": "1"}', '{"contract": 1, "strays": "x"}', '{"contract": 1, "parity": 3}']
)
def test_a_description_that_cannot_be_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.json, "dumps", lambda *_args, **_words: text)
    data = described(exported.model(), exported.card(), Export())
    monkeypatch.undo()
    with pytest.raises(ModelError, match="description cannot be used"):
        read(data)
