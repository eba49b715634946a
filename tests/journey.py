"""The cells of the journey: every strategy, head, task, kind of network and format, from the program's tables.

A new entry in one of these tables becomes part of the journey by itself. What cannot be is listed in REFUSED, with the
reason that the program gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from graft.heads.designs import HEAD_NAMES as SOLVERS
from graft.heads.designs import HEADS, SINGLE_LABEL_HEADS
from graft.jobs.export.export import OPENERS
from graft.jobs.outputs import INT8, ONNX
from graft.torch.build import SMALL
from graft.training.strategies import STRATEGIES
from graft_runtime.card import MULTICLASS, MULTILABEL

TASKS = (MULTICLASS, MULTILABEL)
FAMILIES = ("test_resnet", "test_vit", "test_efficientnet", "test_convnext", *SMALL)
OUTPUTS = (*OPENERS, INT8)  # int8 is an ONNX file with other numbers
OPTIONS = {  # of strategies whose defaults take long, or more stages than a small network has
    "early-features": "at=0.6",
    "tail": "cut=0.6,views=2",
    "gradual": "steps=2",
    "lora": "rank=2",
    "two-phase": "first=0.5",
}
RECIPE = "epochs=2,batch=8,rate=0.0001,refit=no,blend=none"  # no blend: what was trained is what is saved
OWN = "own"  # the head that the strategy chooses


@dataclass(frozen=True)
class Cell:
    """One way from images to answers. `head` is a solver, a head to train, or OWN."""

    strategy: str
    head: str
    task: str
    network: str
    format: str

    @property
    def field(self) -> str:
        """The strategy's option that names a solver, if it has one."""
        names = {field.name for field in dataclasses.fields(STRATEGIES[self.strategy])}
        return next((name for name in ("solver", "head") if name in names), "")

    @property
    def solved(self) -> bool:
        """Whether the head is solved, not trained."""
        return bool(self.field) and (self.head == OWN or self.head in SOLVERS)

    @property
    def trains(self) -> bool:
        """Whether the training loop runs."""
        return hasattr(STRATEGIES[self.strategy], "recipe") and not self.solved

    @property
    def plan(self) -> str:
        """The strategy as text."""
        solver = f"{self.field}={self.head}" if self.solved and self.head != OWN else ""
        text = ",".join(filter(None, [OPTIONS.get(self.strategy, ""), solver]))
        return f"{self.strategy}:{text}" if text else self.strategy

    @property
    def options(self) -> dict[str, str]:
        """What `fit` is told."""
        said = {"strategy": self.plan, "backbone": self.network}
        if not self.trains:
            return said
        recipe = RECIPE if self.network in FAMILIES else RECIPE.replace("0.0001", "0.00001")  # deep ones explode
        return said | {"recipe": recipe} | ({} if self.head == OWN else {"head": self.head})

    @property
    def name(self) -> str:
        """The cell in a line."""
        return "-".join(dataclasses.astuple(self))


def heads_of(strategy: str) -> Iterator[str]:
    """The heads that a strategy takes: its own, those that are solved, those that are trained."""
    yield OWN
    kind = STRATEGIES[strategy]
    solves = {field.name for field in dataclasses.fields(kind)} & {"solver", "head"}
    if solves:
        yield from (name for name in SOLVERS if name != "auto")
    if hasattr(kind, "recipe"):
        yield from (name for name in HEADS if name not in SOLVERS or not solves)


WITHOUT_MAP = ("test_vit", "mlp", "rnn")  # nothing that a conv head could read

# (what is refused, how the program says it), in the order in which it is noticed
REFUSED = (
    (lambda cell: cell.strategy == "direct" and cell.network in SMALL, "published weights"),
    (lambda cell: cell.strategy == "direct" and cell.task == MULTILABEL, "'direct' answers one class"),
    (lambda cell: cell.head in SINGLE_LABEL_HEADS and cell.task == MULTILABEL, "takes one label for each image"),
    (lambda cell: cell.head == "conv" and cell.network in WITHOUT_MAP, "feature map"),
    (lambda cell: cell.strategy == "lora" and cell.network == "rnn", "nothing to adapt"),
    (lambda cell: cell.strategy == "norm" and cell.network == "rnn", "nothing to tune"),
)


def reason(cell: Cell) -> str:
    """Why a cell cannot be, as the program says it; '' for one that can."""
    return next((said for refused, said in REFUSED if refused(cell)), "")


def cells(families: Sequence[str] = FAMILIES, formats: Sequence[str] = OUTPUTS) -> list[Cell]:
    """All cells, those that cannot be as well."""
    return [
        Cell(strategy, head, task, network, format)
        for strategy in STRATEGIES
        for head in heads_of(strategy)
        for task, network, format in product(TASKS, families, formats)
    ]


def spread(possible: Iterable[Cell]) -> list[Cell]:
    """A few of the cells in which each entry of each table is met, each time by the cell that brings most new pairs."""
    left, chosen, met = list(possible), list[Cell](), set[Pair]()
    for field in dataclasses.fields(Cell):
        for entry in dict.fromkeys(getattr(cell, field.name) for cell in left):
            if entry not in {getattr(cell, field.name) for cell in chosen}:
                own = [cell for cell in left if getattr(cell, field.name) == entry]
                chosen.append(max(own, key=lambda cell: len(_pairs(cell) - met)))
                met.update(_pairs(chosen[-1]))
    return chosen


def covering(possible: Iterable[Cell], done: Iterable[Cell] = ()) -> list[Cell]:
    """Few of the cells in which every pair of entries of two tables meets that meets in any of them.

    What meets in the cells that are `done` need not meet again.
    Greedy: of all ways of a strategy and a head the cell that brings most new pairs, and then whatever is left.
    """
    left, chosen = list(possible), list[Cell]()
    open_pairs = {pair for cell in left for pair in _pairs(cell)} - {pair for cell in done for pair in _pairs(cell)}
    while open_pairs:
        ways = {(cell.strategy, cell.head) for cell in left if _pairs(cell) & open_pairs}
        for way in sorted(ways):
            own = [cell for cell in left if (cell.strategy, cell.head) == way]
            best = max(own, key=lambda cell: len(_pairs(cell) & open_pairs))
            if _pairs(best) & open_pairs:
                chosen.append(best)
                open_pairs -= _pairs(best)
    return chosen


Pair = tuple[tuple[str, str], ...]


def _pairs(cell: Cell) -> set[Pair]:
    return set(combinations(((field.name, getattr(cell, field.name)) for field in dataclasses.fields(cell)), 2))


assert ONNX in OUTPUTS
