"""The catalogue as a person sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.errors import UsageError
from graft.jobs.networks import backbones


def graft(*words: str) -> Result:
    return CliRunner().invoke(app.app, list(words))


def test_a_filter_is_a_part_of_a_name_or_a_pattern() -> None:
    part = {each["name"] for each in backbones("efficientnet_lite")}
    assert "tf_efficientnet_lite0" in part
    assert all("efficientnet_lite" in name for name in part)
    pattern = {each["name"] for each in backbones("resnet1?")}
    assert {"resnet18", "resnet14t"} >= pattern - {"resnet10t"}
    assert "resnet18" in pattern
    assert [each["name"] for each in backbones("mobilenet_v2")] == ["mobilenetv2_100"]  # by its other name


def test_the_default_is_installed_with_graft_and_measured() -> None:
    (found,) = backbones("tf_efficientnet_lite0")
    assert found["weights"] == "embedded"
    assert found["licence"] == "apache-2.0"
    assert found["size"] == 224
    assert 4e6 < found["parameters"] < 6e6
    assert 0.3 < found["gmac"] < 0.5


def test_a_file_in_the_users_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mobilenetv2_100.safetensors").write_bytes(b"")
    monkeypatch.setenv("GRAFT_WEIGHTS", str(tmp_path))
    (found,) = backbones("mobilenet_v2")
    assert found["weights"] == "folder"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_offline_is_no_word_for_none(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights that may not be fetched now are not weights that nobody published."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    names = ("efficientnet_lite0", "tf_efficientnet_lite0", "cnn")
    monkeypatch.setattr("graft.backbones.weights._find_cached", lambda entry: None)

    def places(**options: bool) -> list[str]:
        return [each["weights"] for name in names for each in backbones(name, **options) if each["name"] == name]

    assert places() == ["download", "embedded", "none"]
    assert "'offline'" not in graft("backbones", "-f", "lite0").stdout
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert places(offline=by == "option") == ["offline", "embedded", "none"]
    done = graft("backbones", "-f", "lite0", *(["--offline"] if by == "option" else []))
    assert [line.split()[5] for line in done.stdout.splitlines()[1:3]] == ["offline", "embedded"]
    assert "'offline': the weights are published but not on this machine" in done.stdout


def test_the_table_and_the_json_list_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    done = graft("backbones", "--filter", "efficientnet_lite", "--json")
    found = json.loads(done.stdout)
    table = graft("backbones", "-f", "efficientnet_lite").stdout.splitlines()
    assert [line.split()[0] for line in table[1:-1]] == [each["name"] for each in found]
    assert table[-1].startswith(f"{len(found)} ")


@pytest.mark.parametrize("filter", ["nosuchnetwork", "resnet[", "*.nosuchtag"])
def test_a_filter_without_a_match_is_a_usage_error(filter: str) -> None:
    with pytest.raises(UsageError, match="No network matches"):
        backbones(filter)
    done = graft("backbones", "--filter", filter)
    assert done.exit_code == 2
    assert done.stdout == ""
