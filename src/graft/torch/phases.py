"""Inputs of a fine-tuning run, and of each phase: the cut, the feed, the trainable parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.backbone import Backbone as Pretrained
from graft.backbones.features import build_probe_features, choose_layers, parse_cut, parse_stages
from graft.backbones.graph import Stage
from graft.data import dataset as table
from graft.data.dataset import Dataset, Labels
from graft.errors import DataError, UsageError
from graft.features.embed import embed_or_raise, prepare_image
from graft.heads.choose import choose_head
from graft.heads.designs import Conv, Linear
from graft.metrics.calibration import fit_temperature
from graft.model.classifier import Classifier, load
from graft.progress import ProgressWrapper
from graft.torch import adapters, engine
from graft.torch.augment import Augment
from graft.torch.cut import FrozenHalf, Halves, count_needed_stages, cut_last_layers, cut_network
from graft.torch.feed import CachedFeed, Feed, ImageFeed
from graft.torch.head import build_head, head_to_module
from graft.torch.loop import DepthParameter, PhaseInputs, find_rate
from graft.torch.network import BackboneModule, FeaturesModule, NetworkModule
from graft.torch.restore import backbone_to_module
from graft.training.material import Material
from graft.training.plan import Plan
from graft.training.probe import embed_material, select_layers
from graft.training.recipe import Recipe, SettledRecipe, Task, list_teachers
from graft.training.strategies import EarlyFeatures, Lora, Phase, Start
from graft_runtime.card import MULTILABEL
from graft_runtime.formatting import MAX_NAMES, join_names

REFIT_BELOW = 2000  # images below which each counts, so that those held out are learned from in the end
REFIT_EPOCHS = 0.25  # of a refit, for each epoch of the training
REFIT_RATE = 0.3  # of a refit, times the rate of the last phase: low enough to keep what was chosen


@dataclass(frozen=True)
class FinetuneInputs:
    """Inputs of a fine-tuning run.

    `train_rows` have `targets` [n, classes], and the held-out `valid_rows` have `valid_labels`. `tensor_names` are the
    tensors of the network that may change in any phase.
    """

    network: NetworkModule
    backbone: BackboneModule
    chain: tuple[Stage, ...]
    phases: tuple[Phase, ...]
    start: Start
    recipe: SettledRecipe
    material: Material
    train_rows: NDArray[np.intp]
    valid_rows: NDArray[np.intp]
    targets: Tensor
    valid_labels: Labels
    tensor_names: tuple[str, ...]
    seed: int
    watch: ProgressWrapper

    @property
    def has_refit(self) -> bool:
        """Whether what is chosen here will be trained on, on all images."""
        return len(self.train_rows) < REFIT_BELOW if self.recipe.refit == "auto" else self.recipe.refit is True

    @property
    def is_last_epoch_kept(self) -> bool:
        """Whether the last epoch counts, not the best: with few held-out images the best one is luck."""
        return self.has_refit and not self.recipe.patience

    def build_refit(self, rate: float) -> FinetuneInputs:
        """The same network to be trained on, on all images, as in the last phase, whose rate this is, but gently."""
        held_out = build_targets(self.recipe, self.material, self.valid_rows)  # teachers were asked for the others
        rows = np.concatenate([self.train_rows, self.valid_rows])
        order = np.argsort(rows)
        return replace(
            self,
            phases=(replace(self.phases[-1], share=1.0, rate=REFIT_RATE),),
            recipe=replace(self.recipe, epochs=count_refit_epochs(self.recipe), rate=rate),
            train_rows=rows[order],
            valid_rows=rows[:0],
            targets=torch.cat([self.targets, held_out])[torch.from_numpy(order)],
            valid_labels=self.material.data.labels[rows[:0]],
        )

    @property
    def task(self) -> Task:
        """One label an image, or several."""
        return "multilabel" if self.material.data.task == MULTILABEL else "multiclass"


@dataclass(frozen=True)
class PreparedPhase:
    """One phase made ready: its inputs, and the held-out images as the tuned half takes them."""

    name: str
    phase_inputs: PhaseInputs
    held_out: Feed
    halves: Halves


def prepare_phase(
    inputs: FinetuneInputs, number: int, starts: dict[str, Tensor], rate: float | None = None
) -> PreparedPhase:
    """Make a phase ready: cut the network, embed what lies below, gather what is trained above.

    `rate` is that of the head if it is known already; else it is the recipe's, or found.
    """
    phase = inputs.phases[number]
    halves = cut_for_phase(inputs.network, inputs.backbone, phase, inputs.chain)
    feed, held_out = build_feeds(inputs, halves, phase)
    first, last = split_epochs(inputs.phases, inputs.recipe.epochs)[number]
    phase_inputs = PhaseInputs(
        tuned=halves.tuned,
        parameters=list_trainable_parameters(inputs.network, inputs.chain),
        feed=feed,
        targets=inputs.targets,
        task=inputs.task,
        recipe=inputs.recipe,
        batch=inputs.recipe.batch,
        rate=0.0,
        first_epoch=first,
        epochs=last - first,
        seed=inputs.seed,
        start_weights=starts,
        frozen_parts=tuple(_find_frozen_parts(halves.tuned)) if phase.last or phase.until != "head" else (),
    )
    named = inputs.recipe.rate
    if rate is None:
        rate = find_rate(replace(phase_inputs, rate=1.0)) if named == "auto" else named * phase.rate
    phase_inputs = replace(phase_inputs, rate=rate)
    return PreparedPhase(halves.border, phase_inputs, held_out, halves)


def cut_for_phase(network: NetworkModule, backbone: BackboneModule, phase: Phase, chain: Sequence[Stage]) -> Halves:
    """The network cut for a phase, with just those parameters trainable that the phase trains."""
    if phase.last:
        return cut_last_layers(network, backbone, phase.last, chain)
    halves = cut_network(network, backbone, parse_cut(phase.cut), parse_cut(phase.until), chain)
    above = [stage.name for stage in halves.chain[halves.border_index : halves.end_index]]
    if phase.only != "all" and not above:
        raise UsageError("A cut at 'head' leaves no stage to adapt. Name a stage, an index or a share: `graft stages`.")
    if phase.only == "norms":
        kept = adapters.norm_parameters(backbone.module, above)
        backbone.module.requires_grad_(False)
        for parameter in kept:
            parameter.requires_grad_(True)
    if phase.only == "adapters":
        for name, parameter in backbone.module.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return halves


def _find_frozen_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that have parameters, none of which is trained."""
    for child in module.children():
        own = list(child.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            yield child
        else:
            yield from _find_frozen_parts(child)


def build_feeds(inputs: FinetuneInputs, halves: Halves, phase: Phase) -> tuple[Feed, Feed]:
    """What to learn from and what is held out, as inputs of the tuned half."""
    data, digests, seed = inputs.material.data, inputs.material.embeddings.digests, inputs.seed
    frozen, parts = halves.frozen, (inputs.train_rows, inputs.valid_rows)
    if phase.views and isinstance(frozen, FrozenHalf):
        views = (phase.views, 1)
        rows = zip(parts, views, strict=True)
        kept = [
            embed_or_raise(frozen, data.take(part), views=count, seed=seed, watch=inputs.watch) for part, count in rows
        ]
        one, other = (CachedFeed(each, frozen.shape, count) for each, count in zip(kept, views, strict=True))
        return one, other
    ways = (Augment.parse(inputs.recipe.augment), Augment.parse("none"))
    preprocess = inputs.network.preprocess
    one, other = (
        ImageFeed(data.take(part), digests[part], preprocess, way, seed, frozen)
        for part, way in zip(parts, ways, strict=True)
    )
    return one, other


def list_trainable_parameters(network: NetworkModule, chain: Sequence[Stage]) -> list[DepthParameter]:
    """The trainable parameters, each with how many stages it lies below the head."""
    end = count_needed_stages(network.features, chain)
    depths = {f"features.backbone.{stage.name}.": end - place for place, stage in enumerate(chain[:end])}
    found = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            inside = (depth for stage, depth in depths.items() if name.startswith(stage))
            depth = 0 if name.startswith("head.") else next(inside, end + 1)
            found.append((depth, name, parameter))
    return sorted(found, key=lambda each: each[0])


def list_changeable_tensors(network: NetworkModule, recipe: Recipe) -> tuple[str, ...]:
    """The names of all tensors that training may change: what requires gradients, and batch statistics if they move.

    What the head standardises features by is among them: a resumed run must not compute it anew, as the last bits of a
    sum depend on where an array lies in memory.
    """
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    moving, saved = recipe.batch_norm == "train", network.state_dict()
    buffers = (name for name, _ in network.named_buffers() if name in saved)
    return tuple(names + [name for name in buffers if moving or name.startswith("head.")])


def split_epochs(phases: Sequence[Phase], epochs: int) -> list[tuple[int, int]]:
    """(first, last + 1) of each phase, by their shares; at least one epoch for each."""
    if epochs < len(phases):
        raise UsageError(f"This strategy has {len(phases)} phases, so 'epochs' must be at least {len(phases)}.")
    ends = np.rint(np.cumsum([phase.share for phase in phases]) * epochs).astype(int)
    ends[-1] = epochs
    for place in range(len(phases)):
        least, most = place + 1, epochs - (len(phases) - 1 - place)
        ends[place] = min(max(ends[place], least, (ends[place - 1] + 1) if place else 1), most)
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def count_refit_epochs(recipe: SettledRecipe) -> int:
    """The epochs of a refit after a training of so many."""
    return math.ceil(REFIT_EPOCHS * recipe.epochs)


# --- teachers ---------------------------------------------------------------------------------------------------------


def check_teachers(recipe: Recipe, data: Dataset) -> None:
    """Load each teacher, before anything heavy; raises ModelError, or UsageError for one of other classes."""
    for name in list_teachers(recipe):
        _check_classes(name, load(name), data.classes)


def build_soft_targets(recipe: Recipe, data: Dataset) -> Tensor:
    """Targets [n, classes]: the mean of the teachers' probabilities, one teacher in memory at a time."""
    names = list_teachers(recipe)
    total = np.zeros((len(data), len(data.classes)))
    for name in names:
        total += _predict_probs(name, data)
    return torch.from_numpy((total / len(names)).astype(np.float32))


def _predict_probs(name: str, data: Dataset) -> NDArray[np.floating]:
    """Return one teacher's probabilities, [n, classes], its classes in the order of the data set's."""
    teacher = load(name)
    _check_classes(name, teacher, data.classes)
    probs, good, faults = teacher.predict_probs(data)
    if len(good) < len(data):
        raise DataError(f"The teacher {name} cannot judge every image: {next(iter(faults.values()))}.")
    return probs[:, [teacher.classes.index(each) for each in data.classes]]


def _check_classes(name: str, teacher: Classifier, classes: Sequence[str]) -> None:
    if set(teacher.classes) != set(classes):
        raise UsageError(
            f"The teacher {name} knows other classes: {join_names(teacher.classes, MAX_NAMES)}. "
            f"The images have {join_names(classes, MAX_NAMES)}."
        )


# --- start ------------------------------------------------------------------------------------------------------------


SAMPLE_SIZE = 64  # images whose features a new head is standardised by


def check_start(plan: Plan, pretrained: Pretrained) -> None:
    """Raises CutError or UsageError for what this network does not take: now, and not after minutes of embedding."""
    backbone = backbone_to_module(pretrained)
    strategy, chain = plan.parsed_strategy, pretrained.graph.stages
    assert plan.parsed_recipe
    phases = strategy.phases([stage.name for stage in chain])
    if plan.parsed_recipe.epochs != "auto":
        split_epochs(phases, plan.parsed_recipe.epochs)
    solved = FeaturesModule(backbone.module, backbone.preprocess, choose_layers(chain))
    features = solved if plan.start == "solved" else build_head_features(plan, backbone, chain)
    network = build_untrained_network(plan, features, 2)
    for phase in phases:
        halves = cut_for_phase(network, backbone, phase, chain)
        if phase.only == "adapters":
            adapters.find_adaptable_layers(
                backbone.module, [stage.name for stage in halves.chain[halves.border_index :]]
            )


def build_finetune_inputs(
    plan: Plan,
    pretrained: Pretrained,
    backbone: BackboneModule,
    material: Material,
    watch: ProgressWrapper,
) -> FinetuneInputs:
    """Build the inputs of a fine-tuning run. `backbone` is the pretrained one as a module, which is changed.

    Raises UsageError or DataError for what does not go together.
    """
    strategy, seed = plan.parsed_strategy, plan.seed
    assert plan.parsed_recipe
    inner, valid = material.split_validation()
    if not len(valid):
        raise DataError("Too few images to hold some out for validation: use --strategy probe, or add images.")
    chain = pretrained.graph.stages
    phases = strategy.phases([stage.name for stage in chain])
    recipe = plan.parsed_recipe.settle(len(inner), len(phases))
    engine.move_module_to_device(backbone.module)
    if plan.start == "solved":
        network = build_probe_network(pretrained, backbone, material, inner, seed, watch)
    else:
        network = build_untrained_network(plan, build_head_features(plan, backbone, chain), len(material.data.classes))
        if plan.start == "fresh":
            standardise_head(network, material, inner)
    network = engine.move_module_to_device(network)
    if isinstance(strategy, Lora):
        above = [stage.name for stage in chain[cut_for_phase(network, backbone, phases[0], chain).border_index :]]
        adapters.add_lora(backbone.module, above, strategy.rank, 2.0 * strategy.rank, seed)
    cut_for_phase(network, backbone, phases[-1], chain)  # the widest: it names all that may change
    return FinetuneInputs(
        network=network,
        backbone=backbone,
        chain=chain,
        phases=phases,
        start=plan.start,
        recipe=recipe,
        material=material,
        train_rows=inner,
        valid_rows=valid,
        targets=build_targets(recipe, material, inner),
        valid_labels=material.data.labels[valid],
        tensor_names=list_changeable_tensors(network, recipe),
        seed=seed,
        watch=watch,
    )


def build_probe_network(
    pretrained: Pretrained,
    backbone: BackboneModule,
    material: Material,
    inner: NDArray[np.intp],
    seed: int,
    watch: ProgressWrapper,
) -> NetworkModule:
    """The network of a probe, its head solved on the inner rows and scaled to the probabilities that these call for."""
    frozen = build_probe_features(pretrained)
    material = embed_material(frozen, material, 1, seed, watch)
    result = choose_head("auto", "auto", material.build_problems(frozen.widths, 1, inner), watch=watch)
    best_temperature = fit_temperature(result.solution.logits, material.data.labels[inner])[0]
    head, read = head_to_module(result.solution.head), select_layers(frozen, result)
    with torch.no_grad():
        for parameter in head.judge.parameters():  # linear: ridge or logistic
            parameter /= best_temperature
    return NetworkModule(FeaturesModule(backbone.module, backbone.preprocess, read.layers), head)


def build_head_features(plan: Plan, backbone: BackboneModule, chain: Sequence[Stage]) -> FeaturesModule:
    """The features that a new head reads: the output of the backbone; for a conv head, or early features, a stage's."""
    maps = isinstance(plan.parsed_head, Conv)
    if isinstance(plan.parsed_strategy, EarlyFeatures):
        names = parse_stages(plan.parsed_strategy.at, [stage.name for stage in chain])
        return FeaturesModule(backbone.module, backbone.preprocess, names, top=False, pool=not maps)
    if not maps:
        return FeaturesModule(backbone.module, backbone.preprocess, ())
    upper = chain[len(chain) // 2 :]  # the output of a transformer's first layer has places too, but sees nothing yet
    mapped = [stage.name for stage in upper if len(stage.shape) == 3 and min(stage.shape[1:]) > 1]
    if not mapped:
        raise UsageError(
            f"{backbone.entry.name} has no feature map for a conv head. Networks made of convolutions have one; here "
            f"use --head mlp."
        )
    return FeaturesModule(backbone.module, backbone.preprocess, mapped[-1:], pool=False)


def build_untrained_network(plan: Plan, features: FeaturesModule, classes: int) -> NetworkModule:
    """The network with a new head."""
    shape = features.width if features.pool else features.shape
    return NetworkModule(features, build_head(plan.parsed_head or Linear(), shape, classes))


@torch.no_grad()
def standardise_head(network: NetworkModule, material: Material, inner: NDArray[np.intp]) -> None:
    """Let features come to the head with mean 0 and spread 1, as a sample of images has them."""
    rows = inner[np.linspace(0, len(inner) - 1, min(SAMPLE_SIZE, len(inner))).astype(int)]
    images = [torch.from_numpy(prepare_image(network.preprocess, material.data.read(int(row)))) for row in rows]
    batches = torch.stack(images).split(8)
    features = torch.cat([network.features.eval()(engine.move_batch_to_device(batch)).cpu() for batch in batches])
    network.head.standardise(features.mean(dim=0), 1 / features.std(dim=0).clamp(min=1e-3))


def build_targets(recipe: Recipe, material: Material, rows: NDArray[np.intp]) -> Tensor:
    """Return the targets of the labels, or the teachers' probabilities, [n, classes]."""
    if recipe.teacher:
        return build_soft_targets(recipe, material.data.take(rows))
    return torch.from_numpy(table.label_matrix(material.data.labels[rows], len(material.data.classes)))
