"""The house plan, held by reading the code: who may know whom, and the budgets that keep every file short.

Docs: docs/architecture.md. A breach that has a reason stands in EXCEPTIONS, with its reason.
"""

import ast
import functools
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGES = {"graft": HOUSE / "src/graft", "graft_runtime": HOUSE / "runtime/src/graft_runtime"}

# From left to right: each room with the modules and packages that stand in it. A room may know the rooms further to
# the left; the two of one line do not know each other.
ROOMS = [
    {"runtime": ["graft_runtime"]},
    {"ground": ["errors", "spec", "progress", "extras", "device", "atomic"]},
    {"data": ["data"]},
    {"backbones": ["backbones"]},
    {"features": ["features"]},
    {"metrics": ["metrics"]},
    {"heads": ["heads"]},
    {"model": ["model"]},
    {"training": ["training"]},
    {"torch": ["torch"]},
    {"jobs": ["jobs"]},
    {"faces": ["estimator", "cli", "__main__"]},
]
ROOM_OF = {own: room for line in ROOMS for room, owns in line.items() for own in owns}
PLACE_OF = {room: place for place, line in enumerate(ROOMS) for room in line}

RUNTIME_MAY_IMPORT = sys.stdlib_module_names | {"graft_runtime", "numpy", "PIL", "onnxruntime"}
RUNTIME_MAY_IMPORT |= {"pi_heif"}  # where it is installed: the extra [heic]
SERVER_MAY_IMPORT = {"starlette", "uvicorn", "h11", "python_multipart", "prometheus_client"}  # the extra `serve`
HEAVY = ["torch", "timm", "sklearn", "scipy", "onnx", "onnxruntime", "numpy", "PIL", "rich", "jinja2"]
CHANGES = "graft.torch"
CHANGING = {"torch", "timm", "torchvision", "peft"}  # what it takes to change a network; one room may import it
LIGHT = [  # what is answered before anything heavy is loaded, with its exit code
    ("--help", 0),
    ("fit --help", 0),
    ("fti photos -o model", 2),
    ("fit nowhere -o model", 3),
    ("fit . -o model --strategy prbe", 2),
    ("fit . -o model --strategy probe:view=2", 2),
    ("fit . -o model --strategy tail --head mlp:hiden=64", 2),
    ("fit . -o model --strategy full --recipe augment=sttrong", 2),
    ("fit . -o model --backbone resnt50", 2),
    ("fit . -o model --epochs 3", 2),
    ("predict nowhere photo.jpg", 5),
    ("evaluate nowhere photos", 5),
]
NO_NAMES = {"utils", "common", "helpers"}
FILE_LINES, BODY_LINES, MEDIAN_BODY, ARGUMENTS = 500, 40, 10, 9

# "<rule> <who>": "why it may". One that is no longer needed fails too.
EXCEPTIONS: dict[str, str] = {
    "torch graft.data.readers.published -> timm.data.imagenet_info": "names of WordNet's ids, which timm alone has",
    "torch graft.device -> torch": "whether the GPU that is asked for is there, inside a function",
    "torch graft.jobs.runs -> torch.utils.tensorboard": "curves of a training, inside a function",
    "arrow graft.backbones.backbone -> graft.torch.convert": "what timm has becomes a graph once, inside a function",
    "arrow graft.backbones.backbone -> graft.torch.engine": "where there is a GPU, inside a function",
    "arrow graft.model.storage -> graft.torch.restore": "a folder of before has no graph: made anew, inside a function",
    "arguments graft.cli.fit:fit": "typer makes one option of each argument; fit has those that people asked for",
    "arguments graft.cli.embed:embed": "the same",
    "arguments graft.cli.predict:predict": "the same",
    "arguments graft.cli.export:export": "the same",
    "arguments graft.cli.check:check": "the same",
    "arguments graft.cli.update:update": "the same",
    "arguments graft.cli.collect:collect": "the same; each limit that the open web makes somebody need",
    "arguments graft.jobs.check.check:check": "the same front door as its command",
    "arguments graft.jobs.export.export:export": "the same front door as its command",
    "arguments graft.jobs.fit:fit": "the front door: one keyword for each thing that a person may choose",
    "arguments graft.jobs.update.update:update": "the same",
}


def assert_kept(rule: str, breaches: Mapping[str, str]) -> None:
    """Fail with every breach of a rule that is not excused, and with every excuse that has no breach."""
    excused = {key.partition(" ")[2] for key in EXCEPTIONS if key.startswith(f"{rule} ")}
    faults = [f"  {who}: {what}" for who, what in breaches.items() if who not in excused]
    faults += [f"  {who}: is in EXCEPTIONS but needs none" for who in sorted(excused - breaches.keys())]
    if faults:
        pytest.fail("\n".join([f"the rule '{rule}' is broken ({len(faults)})", *faults]), pytrace=False)


# --- reading the code -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """One file of ours, read and not run."""

    name: str  # graft.data.dataset; a package's __init__ is graft.data
    path: Path
    tree: ast.Module

    @property
    def is_init(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def package(self) -> str:
        return self.name if self.is_init else self.name.rpartition(".")[0]


@functools.cache
def modules() -> dict[str, Module]:
    """Every module of both packages, by its dotted name."""
    found: dict[str, Module] = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def imports(module: Module) -> Iterator[str]:
    """Every name that a module imports, wherever the import stands: graft.data.dataset, or graft.fit for a name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                # The name is a module of ours, or stands in the module that it comes from.
                whole = f"{base}.{alias.name}"
                yield whole if whole in modules() or is_init(base) else base


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The module that `from ... import` names, with the leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def is_init(name: str) -> bool:
    return name in modules() and modules()[name].is_init


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def room(name: str) -> str:
    """graft.data.readers.folder stands in the room data; what stands in none keeps its own name."""
    parts = name.split(".")
    own = parts[0] if parts[0] == "graft_runtime" else parts[1]
    return ROOM_OF.get(own, own)


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method, as graft.spec:parse or graft.data.dataset:Dataset.rows."""
    for module in modules().values():
        yield from ((f"{module.name}:{path}", node) for path, node in inside(module.tree))


def inside(tree: ast.AST, path: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        here = f"{path}.{node.name}".lstrip(".") if named else path
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield here, node
        yield from inside(node, here)


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the first statement to the last line; the docstring does not count."""
    statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def argument_count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All that a caller can pass, * and ** counted as one each; self and cls are not passed."""
    positional = [*node.args.posonlyargs, *node.args.args]
    own = bool(positional) and positional[0].arg in ("self", "cls")
    stars = [each for each in (node.args.vararg, node.args.kwarg) if each]
    return len(positional) - own + len(node.args.kwonlyargs) + len(stars)


# --- who may know whom ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_there_is_something_to_read() -> None:
    assert {name.partition(".")[0] for name in modules()} == set(PACKAGES)


def test_every_module_stands_in_a_room() -> None:
    inner = [name for name in modules() if name not in PACKAGES]
    assert_kept("room", {name: "is in no line of ROOMS" for name in inner if room(name) not in PLACE_OF})


def test_a_room_knows_only_rooms_to_its_left() -> None:
    breaches = {}
    for module in modules().values():
        if module.name == "graft":  # the front door shows what is inside, from whichever room
            continue
        for name in imports(module):
            if is_ours(name) and name != "graft" and not may_know(module.name, name):
                breaches[f"{module.name} -> {name}"] = f"'{room(module.name)}' may not know '{room(name)}'"
    assert_kept("arrow", breaches)


def may_know(who: str, whom: str) -> bool:
    mine, theirs = room(who), room(whom)
    return mine == theirs or PLACE_OF.get(theirs, sys.maxsize) < PLACE_OF.get(mine, -1)


def test_modules_import_modules_never_a_package() -> None:
    breaches = {}
    for module in modules().values():
        for name in imports(module):
            if is_ours(name) and not module.is_init and (is_init(name) or name not in modules()):
                breaches[f"{module.name} -> {name}"] = "is a package, a name out of one, or not there: import a module"
    assert_kept("module", breaches)


def test_nobody_imports_in_a_circle() -> None:
    knows = {each.name: {name for name in imports(each) if name in modules()} for each in modules().values()}
    assert_kept("cycle", {" -> ".join(circle): "is a circle" for circle in circles(knows)})


def circles(knows: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Take away, again and again, what knows nobody that is left; from what remains, walk until a name repeats."""
    left = dict(knows)
    while free := [name for name, known in left.items() if not known & left.keys()]:
        for name in free:
            del left[name]
    if left:
        walk = [min(left)]
        while (following := min(knows[walk[-1]] & left.keys())) not in walk:
            walk.append(following)
        yield [*walk[walk.index(following) :], following]


def test_the_runtime_knows_little() -> None:
    breaches = {}
    for module in modules().values():
        if module.name.partition(".")[0] == "graft_runtime":
            allowed = RUNTIME_MAY_IMPORT | (SERVER_MAY_IMPORT if "graft_runtime.serve." in module.name else set())
            foreign = {name.partition(".")[0] for name in imports(module)} - allowed
            breaches |= {f"{module.name} -> {name}": "the runtime ships without it" for name in sorted(foreign)}
    assert_kept("runtime", breaches)


def test_one_room_changes_networks() -> None:
    """Whatever only looks at images works where PyTorch is not installed: .ci/core runs it there."""
    breaches = {
        f"{module.name} -> {name}": "belongs into graft.torch"
        for module in modules().values()
        if not module.name.startswith(CHANGES)
        for name in imports(module)
        if name.partition(".")[0] in CHANGING
    }
    assert_kept("torch", breaches)


def test_the_room_that_changes_networks_is_opened_inside_functions_alone() -> None:
    breaches = {}
    for module in modules().values():
        at_once = [node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        outer = Module(module.name, module.path, ast.Module(at_once, []))
        if not module.name.startswith(CHANGES):
            breaches |= {
                f"{module.name} -> {name}": "costs seconds" for name in imports(outer) if name.startswith(CHANGES)
            }
    assert_kept("door", breaches)


def test_importing_graft_is_light() -> None:
    assert loaded("import graft") == []


@pytest.mark.parametrize(("words", "code"), LIGHT)
def test_what_only_reads_the_command_line_loads_nothing_heavy(words: str, code: int) -> None:
    asked = f"import sys; from graft.cli import app as cli; sys.argv = {['graft', *words.split()]}; cli.main()"
    assert loaded(asked, code) == []


def loaded(code: str, ends: int = 0) -> list[str]:
    """What is loaded of HEAVY when this code, in a process of its own, has ended with this exit code."""
    last = f"import atexit, sys; atexit.register(lambda: print('loaded', *(sys.modules.keys() & set({HEAVY}))))"
    done = subprocess.run([sys.executable, "-c", f"{last}\n{code}"], capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_text_goes_out_in_one_place() -> None:
    """Names of files and classes would be obeyed by a terminal; graft.progress prints words of ours alone."""
    breaches = {
        f"{module.name}:{node.lineno}": "prints: say it with graft_runtime.terminal.say"
        for module in modules().values()
        if module.name not in ("graft_runtime.terminal", "graft.progress")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert_kept("print", breaches)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_words_of_the_domain() -> None:
    called = {name: name.rpartition(".")[2].strip("_") for name in modules()}
    assert_kept("name", {name: f"'{last}' says nothing" for name, last in called.items() if last in NO_NAMES})


def test_all_is_sorted_and_true() -> None:
    breaches = {}
    for module in modules().values():
        names = declared(module.tree)
        if names != sorted(names):
            breaches[module.name] = f"__all__ is not sorted; sorted it is {sorted(names)}"
        missing = [name for name in names if not hasattr(importlib.import_module(module.name), name)]
        if missing:
            breaches[module.name] = f"__all__ promises {missing}, which cannot be imported"
    assert_kept("all", breaches)


def declared(tree: ast.Module) -> list[str]:
    """What `__all__ = [...]` lists; nothing where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lengths = {name: len(each.path.read_text(encoding="utf-8").splitlines()) for name, each in modules().items()}
    assert_kept("file", {name: f"{n} lines, {FILE_LINES} allowed" for name, n in lengths.items() if n > FILE_LINES})


def test_functions_are_short() -> None:
    lengths = {name: body_lines(node) for name, node in functions()}
    assert_kept("body", {name: f"{n} lines, {BODY_LINES} allowed" for name, n in lengths.items() if n > BODY_LINES})


def test_the_median_function_is_shorter() -> None:
    median = statistics.median([body_lines(node) for _, node in functions()] or [0])
    assert median <= MEDIAN_BODY, f"the median function body has {median} lines, {MEDIAN_BODY} allowed"


def test_signatures_are_short() -> None:
    counts = {name: argument_count(node) for name, node in functions()}
    assert_kept("arguments", {name: f"{n}, {ARGUMENTS} allowed" for name, n in counts.items() if n > ARGUMENTS})


# --- the printed tree -------------------------------------------------------------------------------------------------


def test_the_architecture_page_prints_the_real_tree() -> None:
    printed = printed_tree((HOUSE / "docs/architecture.md").read_text(encoding="utf-8"))
    real = {each.path.relative_to(HOUSE).as_posix() for each in modules().values() if not each.is_init}
    breaches = {path: "is not in the tree" for path in sorted(real - printed.keys())}
    breaches |= {path: "is in the tree, but not there" for path in sorted(printed.keys() - real)}
    breaches |= {path: "has no comment in the tree" for path, comment in printed.items() if not comment}
    assert_kept("tree", breaches)


def printed_tree(text: str) -> dict[str, str]:
    """The comment of every Python file in the ```text block under "## The house", by its path.

    A line is `name.py   comment` or `folder/   comment`, further in than the folder that it stands in.
    """
    block = re.search(r"^## The house\n(?:(?!## )[^\n]*\n)*?```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, 'docs/architecture.md has no ```text block under the heading "## The house"'
    found, folders = {}, [(-1, "")]  # folders: how far in, and the path, from the outermost to the one we are in
    for line in filter(str.strip, re.sub("[│├└─]", " ", block[1]).splitlines()):
        depth = len(line) - len(line.lstrip())
        name, _, comment = line.strip().partition(" ")
        folders = [each for each in folders if each[0] < depth]
        path = folders[-1][1] + name
        if name.endswith("/"):
            folders.append((depth, path))
        elif name.endswith(".py") and any((HOUSE / path).is_relative_to(folder) for folder in PACKAGES.values()):
            found[path] = comment.strip()
    return found
