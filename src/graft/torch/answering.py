"""All that an exported file says of pictures, as one module: the classifier from prepared pictures to its answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.model.classifier import Classifier
from graft.model.unknown import NEIGHBOURS, Known
from graft.torch.network import Network, heard
from graft.torch.places import Place, as_map, last_place
from graft.torch.reference import WithReference
from graft.torch.revive import network_of
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import HEAT, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN


class Answering(nn.Module):
    """uint8 pictures [n, 3, size, size] to what `outputs` names, in that order.

    The same as `Classifier` works out with numpy: probabilities by temperature, scales and shifts; the score of
    unknown, 0 where the classifier has none; the logits; the last map; where a linear head reads nothing of the last
    layer but the map's average, how much each place speaks for each class; and which stored training pictures are
    nearest, where there are any.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        network = network_of(classifier.network, classifier.card)
        self.pair, self.head = WithReference(network.features, classifier.compared), network.head
        self.place = last_place(network.features)
        self.calibrated = Calibrated(classifier.card)
        self.strange = Strange(classifier.memory.known if classifier.memory else None, classifier.card)
        drawn = self.place is not None and self.place.averaged and network.head.spec["kind"] == "linear"
        self.heat = Heat(network, classifier.card) if drawn else None
        near = (NEAREST, SIMILARITY) if len(self.strange.stored) else ()
        self.outputs = (PROBABILITIES, UNKNOWN, LOGITS, *[MAP] * (self.place is not None), *[HEAT] * drawn, *near)

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        backbone = self.pair.features.backbone
        with heard(backbone, [self.place.name] if self.place else []) as outputs:
            parts, reference = self.pair.each(prepared)
        logits = self.head(torch.cat(parts, dim=1))
        score, *near = self.strange(reference, logits)
        said = [self.calibrated(logits), score, logits]
        if self.place:
            said.append(_map(backbone, self.place, outputs))
        if self.heat:
            said.append(self.heat(said[-1]))
        return (*said, *near)


class Calibrated(nn.Module):
    """Logits to probabilities, as graft_runtime.decide.probabilities."""

    factors: Tensor
    shifts: Tensor

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.several = card.task == MULTILABEL
        scales = torch.tensor(card.scales or [1.0], dtype=torch.float64)
        self.register_buffer("factors", (scales / card.temperature).float())
        self.register_buffer("shifts", torch.tensor(card.shifts or [0.0]))

    def forward(self, logits: Tensor) -> Tensor:
        scaled = logits * self.factors + self.shifts
        return scaled.sigmoid() if self.several else scaled.softmax(dim=1)


class Strange(nn.Module):
    """Reference features [n, w] and logits to the score of unknown [n], as graft.model.unknown.

    Where training pictures are stored, also to the rows of the nearest, int64 [n, k], and their cosines, largest first.
    """

    stored: Tensor

    def __init__(self, known: Known | None, card: Card) -> None:
        super().__init__()
        self.told, self.several = known is not None, card.task == MULTILABEL
        self.register_buffer("stored", torch.zeros(0) if known is None else torch.from_numpy(known.features).float())

    def forward(self, reference: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        if not self.told:
            return (logits[:, 0] * 0,)
        if not len(self.stored):
            return (-(functional.softplus(logits).sum(dim=1) if self.several else logits.logsumexp(dim=1)),)
        cosines = functional.normalize(reference) @ self.stored.T
        best, which = cosines.topk(min(NEIGHBOURS, len(self.stored)))
        return 1 - best.mean(dim=1), which, best


class Heat(nn.Module):
    """The last map [n, c, h, w] to how much each place speaks for each class, [n, classes, h, w], as graft.model.heat.

    The places add up to what the last layer says for the class's logit, above the mean of all logits where a picture
    has one label, but for a constant.
    """

    weight: Tensor

    def __init__(self, network: Network, card: Card) -> None:
        super().__init__()
        weight = network.head.get_parameter("judge.weight") * network.head.scale
        own = weight[:, -network.features.widths[-1] :]
        self.register_buffer("weight", own if card.task == MULTILABEL else own - own.mean(dim=0))

    def forward(self, last: Tensor) -> Tensor:
        return functional.conv2d(last, self.weight[:, :, None, None]) / (last.shape[2] * last.shape[3])


def _map(backbone: nn.Module, place: Place, outputs: dict[str, Tensor]) -> Tensor:
    found = as_map(backbone, outputs[place.name])
    assert found is not None
    return found
