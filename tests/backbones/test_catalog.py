"""The catalogue: names, numbers, what networks cost, and what they expect of an image; all without torch."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from graft.backbones import catalog
from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError

HALF = (0.5, 0.5, 0.5)

CLASSICS = {
    "alexnet",
    "googlenet",
    "inception_v3",
    "mobilenetv2_100",
    *(f"vgg{depth}" for depth in (11, 13, 16, 19)),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"densenet{depth}" for depth in (121, 169, 201)),
}


def test_names_are_sorted_and_hold_the_classics() -> None:
    names = catalog.list_names()
    assert names == sorted(set(names))
    assert set(names) >= CLASSICS
    assert len(names) > 1000
    assert catalog.DEFAULT in names


def test_all_names_are_found_and_all_entries_are_listed() -> None:
    listed = list(catalog.search())
    assert [entry.name for entry in listed] == catalog.list_names()
    assert all(catalog.find_entry(entry.name) == entry for entry in listed[::50])


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("mobilenet_v2", "mobilenetv2_100"),
        ("vit_b_16", "vit_base_patch16_224"),
        ("convnext_tiny_in22ft1k", "convnext_tiny.fb_in22k_ft_in1k"),  # timm's own former name
    ],
)
def test_other_names_lead_to_the_same_network(said: str, meant: str) -> None:
    assert catalog.find_entry(said) == catalog.find_entry(meant)
    assert catalog.find_entry(said).name == meant


@pytest.mark.parametrize("name", sorted(catalog.ALIASES))
def test_no_alias_hides_a_network(name: str) -> None:
    assert name not in catalog.list_names()
    assert catalog.find_entry(name).name in catalog.list_names()


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(
        UsageError, match=r"There is no network 'resnt50'\. Did you mean 'resnet50' or .*graft backbones"
    ):
        catalog.find_entry("resnt50")
    with pytest.raises(UsageError, match=r"no network 'resnet50\.a1_in2k'\. Did you mean 'resnet50\.a1_in1k'"):
        catalog.find_entry("resnet50.a1_in2k")
    with pytest.raises(UsageError, match=r"^There is no network '§'\. `graft backbones` lists all\.$"):
        catalog.find_entry("§")
    with pytest.raises(UsageError, match="no network ''"):
        catalog.find_entry("")


def test_networks_for_oblong_images_are_refused() -> None:
    with pytest.raises(UsageError, match="768 x 1024 pixels"):
        catalog.find_entry("vit_base_patch16_sapiens2")
    assert not list(catalog.search("sapiens2"))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("vgg11*", ["vgg11", "vgg11_bn"]),
        ("googl", ["googlenet"]),
        ("mobilenet_v2", ["mobilenetv2_100"]),
        ("squeezenet1_?", ["squeezenet1_0", "squeezenet1_1"]),
        ("vgg11_bn.*", ["vgg11_bn.tv_in1k"]),
        ("no such network", []),
    ],
)
def test_entries_match_a_pattern_or_contain_the_text(pattern: str, found: list[str]) -> None:
    assert [entry.name for entry in catalog.search(pattern)] == found


@pytest.mark.parametrize(
    ("name", "parameters", "gmac", "size", "licence"),
    [  # parameters and GMAC as torchvision and timm publish them
        ("alexnet", 61_100_840, 0.71, 224, "not stated"),
        ("googlenet", 6_624_904, 1.50, 224, "not stated"),
        ("vgg16", 138_357_544, 15.47, 224, "bsd-3-clause"),
        ("resnet50", 25_557_032, 4.09, 224, "apache-2.0"),
        ("resnet50.a1_in1k", 25_557_032, 4.09, 224, "apache-2.0"),
        ("inception_v3", 23_834_568, 5.71, 299, "apache-2.0"),
        ("mobilenetv2_100", 3_504_872, 0.30, 224, "apache-2.0"),
        ("tf_efficientnet_lite0", 4_652_008, 0.39, 224, "apache-2.0"),
    ],
)
def test_entries_say_what_a_network_costs(name: str, parameters: int, gmac: float, size: int, licence: str) -> None:
    entry = catalog.find_entry(name)
    assert (entry.parameters, entry.size, entry.licence) == (parameters, size, licence)
    assert entry.gmac == pytest.approx(gmac, abs=0.006)


def test_numbers_of_the_default_weights_are_not_lent_to_others() -> None:
    assert catalog.find_entry("convnext_tiny").parameters == 28_589_128
    assert catalog.find_entry("convnext_tiny.fb_in22k").parameters is None  # 21,841 classes
    assert catalog.find_entry("convnext_tiny.fb_in22k_ft_in1k_384").gmac is None  # 384 pixels


HEADER = ",".join(field.name for field in fields(catalog.CatalogRow))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table of the test's own, in place of the real one."""
    monkeypatch.setattr(catalog, "TABLE", tmp_path / "catalog.csv")
    catalog._table.cache_clear()
    catalog._all_names.cache_clear()
    yield tmp_path / "catalog.csv"
    catalog._table.cache_clear()
    catalog._all_names.cache_clear()


def test_lines_of_the_table_mean_what_row_says(table: Path) -> None:
    facts = "224,256,bicubic,center,0 0.25 0.5,1 1 1,1000,fc aux,mit,=,"
    small = "192,192,bilinear,squash,0 0 0,1 1 1,10,fc,mit,me/mine@v1,address"
    table.write_text(
        f"# written\n{HEADER}\nold,timm,new.b{',' * 14}\nnew,timm,,a,11,2.5{',' * 11}\n"
        f"new.a,timm,,,,,{facts}\nnew.b,timm,,,,,{small}\nwide,timm,,,,,2x1{',' * 10}\n"
    )
    assert catalog.list_names() == ["new"]
    assert [entry.name for entry in catalog.search("*.*")] == ["new.a", "new.b"]
    assert catalog.find_entry("new") == catalog.CatalogEntry("new", "timm", 11, 2.5, 224, "mit")
    assert catalog.find_entry("new.a") == catalog.CatalogEntry("new.a", "timm", 11, 2.5, 224, "mit")
    other = catalog.find_entry("old")
    assert other == catalog.CatalogEntry("new.b", "timm", None, None, 192, "mit")
    assert catalog.build_preprocess(other) == Preprocess(192, 192, "bilinear", "squash", (0, 0, 0), (1, 1, 1))
    assert (catalog.repository(other), catalog.url(other)) == ("me/mine@v1", "address")
    assert (catalog.repository(catalog.find_entry("new")), catalog.url(catalog.find_entry("new"))) == ("timm/new.a", "")
    assert catalog.classifier_prefixes(catalog.find_entry("new")) == ("fc.", "aux.")
    with pytest.raises(UsageError, match="takes images of 1 x 2 pixels"):
        catalog.find_entry("wide")


def test_a_wrong_name_is_told_without_loading_anything(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from graft.backbones import catalog
        try:
            catalog.find_entry("resnet5O")
        except Exception as error:
            print(error)
        print(time.process_time() < 0.3, *[name for name in ("torch", "timm", "numpy") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, quick = done.stdout.splitlines()
    assert said.startswith("There is no network 'resnet5O'. Did you mean 'resnet50' or ")
    assert quick == "True"


def test_the_table_belongs_to_the_catalogue() -> None:
    first, header, *rows = catalog.TABLE.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# Written by bench/catalog.py with timm ")
    assert header == HEADER
    written = [row.partition(",")[0] for row in rows]
    assert written == sorted(set(written))
    assert sum(entry.parameters is not None for entry in catalog.search()) > 1300


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_efficientnet_lite0", Preprocess(224, 256, "bicubic", "center", HALF, HALF)),
        ("inception_v3", Preprocess(299, 341, "bicubic", "center", HALF, HALF)),
        ("resnet50", Preprocess(224, 235, "bicubic", "center")),
        ("vgg11", Preprocess(224, 256, "bilinear", "center")),
        ("alexnet", Preprocess(224, 256, "bilinear", "center")),
        ("googlenet", Preprocess(224, 256, "bilinear", "center")),
        ("volo_d4_448", Preprocess(448, 448, "bicubic", "center")),  # crop_pct 1.15
    ],
)
def test_preprocessing_belongs_to_the_weights(name: str, expected: Preprocess) -> None:
    assert catalog.build_preprocess(catalog.find_entry(name)) == expected


def test_preprocessing_of_every_network_can_be_done() -> None:
    crops = set()
    for entry in catalog.search():
        preprocess = catalog.build_preprocess(entry)
        crops.add(preprocess.crop)
        assert preprocess.resize >= preprocess.size == entry.size
        assert all(math.isfinite(mean / std) for mean, std in zip(preprocess.mean, preprocess.std, strict=True))
    assert crops == {"center", "squash"}
