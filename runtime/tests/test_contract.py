"""An exported file says what it is before anything in it runs; whatever else it may be is told."""

from __future__ import annotations

import random
from dataclasses import replace

import exported
import onnx
import onnxruntime
import pytest

from graft_runtime import contract
from graft_runtime.contract import CARD, DIGEST, EXPORT, Export, ModelError, described, read


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
