"""The documentation tells the truth: its examples run, its links lead somewhere, its help is the program's."""

import doctest
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import formats
import pytest
from shaken import slim_networks
from typer.testing import CliRunner

from graft.cli.app import app
from graft.training.strategies import STRATEGIES

HOUSE = Path(__file__).parents[1]
DOCS = HOUSE / "docs"
PAGES = {"README": HOUSE / "README.md"} | {
    path.relative_to(DOCS).with_suffix("").as_posix(): path for path in sorted(DOCS.rglob("*.md"))
}
WITHOUT_EXAMPLES = {
    "architecture",
    "cli",
    "deploy",
}  # how the code is built; generated; run by tests/jobs/test_serve.py
FENCES = {
    "python",
    "console",
    "sh",
    "text",
    "js",
}  # the first two run; sh needs a fresh machine or other files; text is shown; tests/jobs/test_client.py runs js

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return [(language, text) for _, language, text in FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


# --- examples ---------------------------------------------------------------------------------------------------------


def page(name: str) -> object:
    """A page as a parameter: those on which much is trained or exported are slow."""
    much = ("README", "backbones", "classifier", "client", "data", "export", "fit", "heads", "labels", "predict")
    slow = name.startswith(("strategies/", "recipes/")) or name in (*much, "runs", "training")
    return pytest.param(name, marks=[pytest.mark.slow] * slow)


MODULES = [
    ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for root in (HOUSE / "src", HOUSE / "runtime/src")
    for file in sorted(root.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", [page(name) for name in sorted(PAGES.keys() - WITHOUT_EXAMPLES)])
def test_the_examples_run(name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(photos, tmp_path / "photos", ignore=shutil.ignore_patterns("0[6-9].*", "1*"))  # six of each class
    shutil.copy(next(photos.glob("*/*.jpg")), tmp_path / "photo.jpg")
    if name in ("data", "recipes/data"):  # the pages of the published data sets
        formats.lay(tmp_path, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": f"docs_{name}"}
    examples = 0
    with slim_networks():
        for language, text in blocks(PAGES[name]):
            if language == "python":
                exec(compile(text, f"{PAGES[name]}", "exec"), names)
                examples += 1
            elif language == "console":
                for line in text.splitlines():
                    run(line)
                    examples += 1
    assert examples, f"{PAGES[name]} has no example that runs"


def run(line: str) -> None:
    """Run one `$ graft ...` line as a shell would."""
    assert line.startswith("$ graft "), f"a console block holds commands only, without their output: {line!r}"
    done = CliRunner().invoke(app, shlex.split(line)[2:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("name", sorted(name for name in PAGES if name.startswith("recipes/")))
def test_every_recipe_in_a_table_is_in_a_block(name: str) -> None:
    said = re.findall(r"^\|[^|]*\| `([^|`]+)` \|", PAGES[name].read_text(encoding="utf-8"), re.MULTILINE)
    ways = "\n".join(text for _, text in blocks(PAGES[name]))
    assert said or name == "recipes/index"
    assert [way for way in said if way not in ways and way != "--resume"] == []  # run on the page Runs


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_block_says_what_it_is(name: str) -> None:
    found = blocks(PAGES[name])
    fences = re.findall("^ *```", PAGES[name].read_text(encoding="utf-8"), re.MULTILINE)
    assert {language for language, _ in found} <= FENCES
    assert len(fences) == 2 * len(found), "a block is not closed, or closed further in than it was opened"


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_cli() -> ModuleType:
    """docs/make_cli.py as a module."""
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_page_of_the_command_line_is_up_to_date(make_cli: ModuleType) -> None:
    written = make_cli.PAGE.read_text(encoding="utf-8")
    assert written == make_cli.page(), "it is not: run `.venv/bin/python docs/make_cli.py`"


def test_help_names_every_command(make_cli: ModuleType) -> None:
    commands = {
        (command.name or command.callback.__name__).replace("_", "-")
        for command in app.registered_commands
        if command.callback
    }
    assert set(make_cli.commands(make_cli.shown())) == commands


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    relative = [link for link in LINK.findall(prose(page)) if not link.startswith(("https://", "#"))]
    dead = [link for link in relative if not (page.parent / link.partition("#")[0]).exists()]
    assert not dead, f"{page} links to what is not there: {dead}"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ +- ([\w/-]+)\.md$", (HOUSE / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(PAGES.keys() - {"README"})


def test_every_strategy_has_its_page() -> None:
    written = {path.stem for path in (DOCS / "strategies").glob("*.md")}
    assert written - {"index"} == STRATEGIES.keys()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    # Without --quiet, which also keeps --strict from seeing the warnings.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/fit/index.html").is_file()
