"""How far the answers in a browser are from those of graft-runtime, on the same files.

    graft fit photos/ -o model/ && graft export model/ -o web/ --to web
    python bench/browser.py web/ photos/test [--count 100]

Needs the extra `browser` and a Chromium: `playwright install chromium`, or its path in CHROMIUM.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

import graft_runtime
from graft_runtime import table

sys.path.append(str(Path(__file__).parents[1] / "runtime" / "tests"))
from standin import hosted

ASK = """([name, text]) => import("./answerer.js").then(async ({ answer }) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const began = performance.now(), [said] = await answer([new File([bytes], name)]);
  return { ...said, milliseconds: performance.now() - began };
})"""


def asked(folder: Path, files: Sequence[Path]) -> list[dict[str, Any]]:
    """What the page's own answerer says of each file, in Chromium."""
    with hosted(folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.locator("#about").wait_for()
        return [page.evaluate(ASK, [each.name, base64.b64encode(each.read_bytes()).decode()]) for each in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--worst", type=int, default=1, help="how many of the worst to name")
    given = parser.parse_args()
    files = list(table.list_images([given.images]))
    files = [files[at] for at in np.linspace(0, len(files) - 1, min(given.count, len(files))).astype(int)]
    want, got = graft_runtime.load(given.folder / "model.onnx").predict(files), asked(given.folder, files)
    pairs = [(one, other) for one, other in zip(want, got, strict=True) if one.answer and not other["fault"]]
    off = np.array(
        [
            max(abs(chance - other["probabilities"][name]) for name, chance in one.probabilities.items())
            for one, other in pairs
        ]
    )
    changed = sum((list(one.labels), one.unknown) != (other["labels"], other["unknown"]) for one, other in pairs)
    print(f"{len(pairs)} of {len(files)} images judged by both; {changed} answers differ")
    print(
        f"probabilities off by {np.median(off):.1e} (median), {off.max():.1e} at most, by 0.001 in {(off > 1e-3).sum()}"
    )
    for at in np.argsort(-off)[: given.worst]:
        print(f"  {off[at]:.1e}  {pairs[at][0].image}")
    print(f"{np.median([other['milliseconds'] for _, other in pairs]):.0f} ms an image in the browser (median)")
    for one, other in zip(want, got, strict=True):
        if bool(one.fault) != bool(other["fault"]):
            print(f"  {one.image}: {one.fault or 'read'} by graft-runtime, {other['fault'] or 'read'} by the browser")


if __name__ == "__main__":
    main()
