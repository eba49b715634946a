"""Export to a folder of static files that predicts in a browser, run in Node before it is written."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import atomic
from graft.data.cache import cache_folder
from graft.data.dataset import decode_pixels
from graft.errors import ExportError, OutputError
from graft.jobs import outputs
from graft.jobs.export import parity
from graft.jobs.export.parity import ParityImages
from graft.model import storage
from graft.model.classifier import Classifier
from graft.progress import ProgressWrapper
from graft_runtime import contract, safe_files
from graft_runtime.card import Card
from graft_runtime.decide import Answer
from graft_runtime.prediction import Prediction

HERE = Path(__file__).parent
PAGE = Path(contract.__file__).with_name("page")
PACKAGE = "onnxruntime-web"
VERSION = json.loads((HERE / "npm/package.json").read_text(encoding="utf-8"))["dependencies"][PACKAGE]
RUNTIME = {  # no GPU: 14 MB instead of 28, and it runs anywhere; each with its SHA-256 in this version
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
MODEL, README, LICENCES = "model.onnx", "README.txt", "LICENCES.txt"
MAX_NODE_IMAGES = 100  # run in Node; ONNX Runtime has run all of them before

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; worker-src 'self'; form-action 'none'; base-uri 'none'"
)
ERROR_LINE = re.compile(r"npm error|\w*Error\b")  # how an error message of npm or Node begins
SIGNATURE = "This folder was written by graft export --to web."


def check_output(folder: Path, force: bool) -> None:
    """Raise OutputError for a folder that exists or, with `force`, that graft did not write."""
    outputs.check_parent_folder(folder)
    files = {*_page_files(), *RUNTIME, MODEL, README, LICENCES}
    atomic.restore_leftover(folder, files, files)
    if not folder.exists():
        return
    names = (
        {entry.name for entry in folder.iterdir()} - set(storage.IGNORED_FILES) if folder.is_dir() else {folder.name}
    )
    ours = folder.is_dir() and (not names or _is_marked(folder / README))
    if foreign := names - (files if ours else set()):
        raise OutputError(f"{folder} holds {min(foreign)!r}, which graft did not write. Choose another name.")
    if names and not force:
        raise OutputError(f"{folder} is there already. Use --force to replace it, or choose another name.")


def fetch_runtime(watch: ProgressWrapper) -> Path:
    """Return the cache folder of onnxruntime-web's files, which npm fetches where they are missing or damaged.

    Raises ExportError.
    """
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    if not shutil.which("node"):
        raise ExportError(
            "An export to web is checked in Node before it is written, and there is none. Install Node.js 18 or newer, "
            "which brings npm as well."
        )
    if not all(_is_sound(folder, name) for name in RUNTIME):
        for _ in watch([None], f"fetch {PACKAGE} {VERSION}", 1):
            _download_runtime(folder)
        if odd := [name for name in RUNTIME if not _is_sound(folder, name)]:
            raise ExportError(f"{folder / odd[0]} is not the file of {PACKAGE} {VERSION}: its SHA-256 is another.")
    return folder


def _is_sound(folder: Path, name: str) -> bool:
    try:
        with safe_files.open_regular(folder / name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == RUNTIME[name]
    except OSError:
        return False


def _download_runtime(folder: Path) -> None:
    why = "npm is not installed"
    with TemporaryDirectory() as place:
        shutil.copytree(HERE / "npm", place, dirs_exist_ok=True)
        if npm := shutil.which("npm"):
            words = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
            why = f"npm failed: {_last_error_line(done.stderr)}"
            if not done.returncode:
                return _copy_runtime(Path(place) / "node_modules" / PACKAGE / "dist", folder)
    raise ExportError(
        f"An export to web needs {PACKAGE} {VERSION}, which npm fetches once, and {why}. Try again with a connection, "
        f"or copy {' and '.join(RUNTIME)} of that version from another machine into {folder}."
    )


def _copy_runtime(dist: Path, folder: Path) -> None:
    try:
        with atomic.atomic_folder(folder) as fresh:
            for name in RUNTIME:
                shutil.copy(dist / name, fresh)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {atomic.describe_error(error)}.") from error


def write(
    folder: Path,
    file: bytes,
    runtime: Path,
    classifier: Classifier,
    parity_images: ParityImages,
    watch: ProgressWrapper,
) -> parity.Parity:
    """Write the folder atomically; return the comparison with its files, run in Node on some of the images.

    Raises ExportError where the predictions differ from the classifier's, OutputError where nothing can be written.
    """
    try:
        with atomic.atomic_folder(folder) as fresh:
            for name, content in _folder_files(file, runtime, classifier.card).items():
                (fresh / name).write_bytes(content)
            found = _check_in_node(fresh, classifier, parity_images, watch)
            if why := found.find_mismatch():
                raise ExportError(
                    f"In the browser's runtime the export does not answer as the classifier does: {why}. This is a "
                    f"fault of graft or of {PACKAGE} {VERSION}; please report it with the name of the network."
                )
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {atomic.describe_error(error)}. Nothing is left behind."
        ) from error
    return found


def _check_in_node(
    fresh: Path, classifier: Classifier, parity_images: ParityImages, watch: ProgressWrapper
) -> parity.Parity:
    some = replace(
        parity_images,
        data=parity_images.data.take(parity.sample_evenly(np.arange(len(parity_images.data)), MAX_NODE_IMAGES)),
    )
    size = sum(path.stat().st_size for path in fresh.iterdir())
    enough = classifier.network.preprocess.decode_size
    with _run_node(fresh) as predict_one:

        def stream(raws: Iterator[Any]) -> Iterator[Prediction]:
            return (predict_one(decode_pixels(raw, enough)) for raw in raws)

        found = parity.compare_export(classifier, stream, predict_one, size, some, watch)
    return replace(found, runtime=f"{PACKAGE} {VERSION}")


@contextmanager
def _run_node(folder: Path) -> Iterator[Callable[[NDArray[np.uint8]], Prediction]]:
    """Run the folder's files in Node: a function from an upright image [height, width, 3] to its prediction."""
    with TemporaryFile() as stderr:
        words = ["node", str(HERE / "check.mjs"), str(folder)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdin
            assert process.stdout
            to, back = process.stdin, process.stdout

            def predict_one(image: NDArray[np.uint8]) -> Prediction:
                try:
                    to.write(struct.pack("<II", *image.shape[:2]) + image.tobytes())
                    to.flush()
                except BrokenPipeError:
                    pass  # Node has ended: its standard error says why
                line = back.readline()
                if not line:
                    stderr.seek(0)
                    raise ExportError(
                        f"{PACKAGE} cannot run the export in Node: {_last_error_line(stderr.read().decode())}"
                    )
                reply = json.loads(line)
                fault = reply.get("fault", "")
                return Prediction("", None if fault else _answer(reply), fault)

            try:
                yield predict_one
            finally:
                process.kill()
                with suppress(BrokenPipeError):  # bytes that Node did not read
                    to.close()


def _answer(reply: dict[str, Any]) -> Answer:
    names = ("label", "probability", "probabilities", "unknown")
    return Answer(labels=tuple(reply["labels"]), **{name: reply[name] for name in names})


def _page_files() -> dict[str, bytes]:
    """Return the page's files, with the script that predicts in the browser instead of asking a server."""
    files = {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.name != "ask-server.js"}
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'.encode()
    head, mark, rest = files["index.html"].partition(b'<meta charset="utf-8">\n')
    return files | {"index.html": head + mark + policy + rest, "answerer.js": files.pop("ask-browser.js")}


def _folder_files(model: bytes, runtime: Path, card: Card) -> dict[str, bytes]:
    texts = {README: README_TEXT.format(mark=SIGNATURE, version=VERSION), LICENCES: _licences(card)}
    parts = {name: (runtime / name).read_bytes() for name in RUNTIME} | {MODEL: model}
    return _page_files() | parts | {name: text.encode() for name, text in texts.items()}


def _licences(card: Card) -> str:
    lines = [f"{what}: {licence}" for what, licence in card.licences.items()]
    return "\n".join([f"{MODEL}, what it was made from", *lines, "", LICENCE_TEXT.format(version=VERSION)])


def _is_marked(readme: Path) -> bool:
    return readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(SIGNATURE)


def _last_error_line(text: str) -> str:
    """Return the line of a program's output that states the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if ERROR_LINE.match(line)), (lines or ["it said nothing"])[-1])[:300]


README_TEXT = """{mark}

A page that says what images show. The model runs in the browser: no image leaves it.

To look at it:    python -m http.server        in this folder, then open http://localhost:8000
To publish it:    copy the folder to any host of static files. It needs no special headers and works in a subfolder.
                  The camera works on https and on localhost only.

index.html opened as a file, without a server, does not work: browsers then refuse to load the model.

model.onnx is a file of `graft export`; graft-runtime runs it as well. In the browser onnxruntime-web {version} does.
LICENCES.txt says what may be done with all this.
"""

LICENCE_TEXT = """The page (index.html, *.css, *.js): graft, Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0

ort.wasm.bundle.min.mjs and ort-wasm-simd-threaded.wasm: onnxruntime-web {version}; what it is built from in turn is in
https://github.com/microsoft/onnxruntime/blob/main/ThirdPartyNotices.txt

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
