"""A large network as an exported file: its size, whether it answers as the classifier does, peak memory and seconds.

python bench/large.py ../shared/data/caltech5_tiny [--backbone vgg16] [--images 6]

A probe is fitted on a few images of each class with random weights, since cost does not depend on them, and exported to
ONNX in a process of its own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# This process imports no torch: a child's peak begins at the size of the process that started it.
FIT = """
import sys, torch
from safetensors.torch import save_file
from graft.torch import build
from graft.jobs.fit import fit
from graft.backbones import catalog

photos, weights, model, name = sys.argv[1:]
entry = catalog.find_entry(name)
network = build.build_network(entry)
for norm in network.modules():
    if isinstance(norm, torch.nn.BatchNorm2d):  # some begin at 0, and a layer of zeros is written shorter
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
save_file(network.state_dict(), f"{weights}/{entry.name}.safetensors")
fit(photos, model, backbone=name, report=False)
print("null")
"""
EXPORT = """
import json, resource, sys
from graft.jobs.export.export import export
from graft.model.classifier import load

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

classifier = load(sys.argv[1])
start = peak()
report = export(classifier, sys.argv[2])
print(json.dumps({"start": start, "peak": peak(), **report}))
"""


def main() -> None:
    """One row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--images", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        photos, model, file = Path(place, "photos"), Path(place, "model"), Path(place, "model.onnx")
        for folder in sorted((options.data / "train").iterdir()):
            for image in sorted(folder.iterdir())[: options.images]:
                (photos / folder.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, photos / folder.name)
        run(FIT, place, photos, place, model, options.backbone)
        found = run(EXPORT, place, model, file)
        size = file.stat().st_size / 1e6
    parity = found["parity"]
    print("| network | MB | images | changed answers | worst probability | start MiB | peak MiB | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    answers = f"{parity['images']} | {parity['changed']} | {parity['worst']:.1e}"
    cost = f"{found['start']:,} | {found['peak']:,} | {found['seconds']}"
    print(f"| {options.backbone} | {size:.1f} | {answers} | {cost} |")


def run(code: str, place: str, *arguments: object) -> dict[str, Any]:
    """What a child says, with a cache and weights of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRAFT_CACHE": f"{place}/cache", "GRAFT_WEIGHTS": place},
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
