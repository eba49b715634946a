"""Commands `backbones` and `stages`, and the printing of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from graft.cli.options import DEFAULT, AsJson, Offline, complete_backbone, print_result, report_errors, show_loading
from graft.extras import format_missing_message
from graft_runtime.terminal import say

MAX_LAST_LAYERS = 4  # layers listed for last=1, last=2 and so on
SCRATCH_NETWORKS = ("mlp", "cnn", "rnn")  # no pretrained weights


def print_stages(network: str, chain: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of `graft stages`."""
    width = max(len(stage["name"]) for stage in chain)
    columns = f"{'params':>11} {'below':>7} {'work':>7} {'above':>7}"
    say(f"{'index':>5} {'share':>6}  {'stage':<{width}}  {'output':<16} {columns}")
    for stage in chain:
        shape = " x ".join(map(str, stage["shape"]))
        work, above = ("-" if stage[name] is None else f"{stage[name]:.1%}" for name in ("work", "above"))
        numbers = f"{stage['parameters']:>11,} {stage['below']:>7.1%} {work:>7} {above:>7}"
        say(f"{stage['index']:>5} {stage['share']:>6}  {stage['name']:<{width}}  {shape:<16} {numbers}")
    if chain[0]["work"] is None:
        say(format_missing_message("torch", "The work of a stage is counted by PyTorch, and that"))
    _print_last_layers(chain)
    say(f"A cut freezes what is above its line. Next:  graft fit photos/ -o model/ --backbone {network} ", end="")
    say(
        "--strategy scratch"
        if network in SCRATCH_NETWORKS
        else f"--strategy tail:cut={chain[len(chain) * 3 // 4]['name']}"
    )


def _print_last_layers(chain: Sequence[Mapping[str, Any]]) -> None:
    """Print what last=1, last=2 and so on would train: each adds one more layer, from the top."""
    layers = [layer for stage in chain for layer in stage["layers"]]
    width, trained = max((len(layer["name"]) for layer in layers[-MAX_LAST_LAYERS:]), default=0), 0
    for count, layer in enumerate(reversed(layers[-MAX_LAST_LAYERS:]), start=1):
        trained += layer["parameters"]
        say(f"last={count} trains from {layer['name']:<{width}} on: {trained:>11,} parameters, and the head")


def print_networks(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of `graft backbones`."""
    say(f"{'name':<48} {'params':>8} {'GMAC':>7} {'px':>5}  {'weights':<9} licence of the weights")
    for each in found:
        million = f"{each['parameters'] / 1e6:.1f} M" if each["parameters"] else "-"
        cost = (f"{each['gmac']:.2f}" if each["gmac"] >= 0.01 else f"{each['gmac']:.1g}") if each["gmac"] else "-"
        place = f"{each['weights']:<9} {each['licence']}"
        say(f"{each['name']:<48} {million:>8} {cost:>7} {each['size']:>5}  {place}")
    if any(each["weights"] == "offline" for each in found):
        say("'offline': the weights are published but not on this machine, and downloads are off.")
    say(f"{len(found):,} found; '-' is not measured. Next:  graft fit photos/ -o model/ --backbone NAME")


def stages(
    backbone: Annotated[
        str, typer.Argument(help="Network; `graft backbones` lists them.", autocompletion=complete_backbone)
    ] = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """List the stages of a network, for --strategy tail:cut=NAME."""
    with report_errors("stages"):
        from graft.cli import preflight

        preflight.check_backbone(backbone)
        with show_loading():
            from graft.jobs.networks import stages as job

        chain = job(backbone)
        print_result(chain, as_json, lambda chain: print_stages(backbone, chain))


def backbones(
    filter: Annotated[str, typer.Option("--filter", "-f", help="Part of a name, or a pattern: 'resnet*'.")] = "*",
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """List the pretrained networks: size, cost, licence of the weights, and where these would come from."""
    with report_errors("backbones"):
        with show_loading():
            from graft.jobs.networks import backbones as job

        found = job(filter, offline=offline)
        print_result(found, as_json, print_networks)
