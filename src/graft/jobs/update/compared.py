"""What an update did to the old classes, on the old test pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graft.errors import DataError
from graft.model.compare import WORSE, ClassChange, Comparison, Side, by_class, compare


@dataclass(frozen=True)
class Effect:
    """The whole and each old class, after against before; None where no test picture can tell."""

    whole: Comparison | None
    classes: list[ClassChange]

    @property
    def worse(self) -> list[str]:
        """Sentences about what got significantly worse."""
        found = []
        if self.whole and self.whole.verdict == WORSE:
            what = "right" if self.whole.metric == "accuracy" else "mean average precision"
            found.append(f"from {self.whole.second:.1%} to {self.whole.first:.1%} {what} of {self.whole.shared:,}")
        for each in self.classes:
            if each.verdict == WORSE:
                found.append(f"of {each.count:,} {each.name} {each.second:.1%} were found and {each.first:.1%} are now")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        whole = self.whole.as_dict() if self.whole else None
        return {"whole": whole, "classes": [asdict(each) for each in self.classes], "worse": self.worse}


def effect(after: Side, before: Side) -> Effect:
    """By the test pictures that both answered; none where they share none."""
    try:
        whole = compare(after, before)
    except DataError:
        return Effect(None, [])
    return Effect(whole, by_class(after, before))
