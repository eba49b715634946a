"""The server against the bare runtime and against FastAPI with PyTorch; overload; memory; start.

python bench/serve.py ../shared/data/flowers5 [--model FOLDER] [--requests 100000]

Clients run on the same cores as the server. The naive endpoint needs `pip install fastapi`.
"""

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil

from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft_runtime.predictor import load

sys.path.append(str(Path(__file__).parents[1] / "runtime" / "tests"))
import exported as colours

CLIENTS, SECONDS, IMAGES = (1, 8, 64), 12.0, 100
CAPACITY, TIMES = 128, 4  # requests that graft_runtime.serve.bounds lets in, and how many times as many clients come
MB = 2**20


@dataclass
class Load:
    """What came of clients that ask without a pause: answers in seconds, by status, over this many seconds."""

    answers: list[tuple[int, float]]
    seconds: float

    def rate(self) -> float:
        return sum(status == 200 for status, _ in self.answers) / self.seconds

    def milliseconds(self, share: float) -> float:
        return 1e3 * float(np.quantile([spent for status, spent in self.answers if status == 200], share))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = options.model or Path(place, "model")
        if not model.exists():
            fit(options.data, model)
        file, tiny = Path(place, "model.onnx"), Path(place, "colours.onnx")
        export(str(model), file)
        tiny.write_bytes(colours.file())
        images = [path.read_bytes() for path in sorted(options.data.glob("test/*/*.jpg"))[::3][:IMAGES]]
        speed(file, model, images)
        overload(file, images)
        start(file, images[0])
        memory(tiny, options.requests)


def speed(file: Path, model: Path, images: list[bytes]) -> None:
    """Images a second and how long each takes, between two runs of the bare loop: a machine's speed drifts."""
    print("| | clients | images/s | of the bare loop before and after | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    before = loop(file, images)
    for clients in CLIENTS:
        with server(file) as port:
            own = asyncio.run(asked(port, "/v1/predict", images, clients))
        after = loop(file, images)
        with naive(model) as port:
            other = asyncio.run(asked(port, "/predict", images, clients))
        told("`graft serve`", clients, own, before, after)
        told("FastAPI + PyTorch", clients, other, after, before := loop(file, images))
    print()


def told(name: str, clients: int, load: Load, before: float, after: float) -> None:
    each = " | ".join(f"{load.milliseconds(share):.0f}" for share in (0.5, 0.99))
    share = 2 * load.rate() / (before + after)
    print(f"| {name} | {clients} | {load.rate():.1f} | {share:.2f} ({before:.1f}, {after:.1f}) | {each} |", flush=True)


def loop(file: Path, images: list[bytes]) -> float:
    """Images a second of the runtime alone, decoding in threads."""
    predictor = load(file)
    predictor.predict(images[:8])
    began = time.monotonic()
    count = sum(1 for _ in predictor.stream(islice(cycle(images), 4 * len(images))))
    return count / (time.monotonic() - began)


def overload(file: Path, images: list[bytes]) -> None:
    """Four times as many clients as are let in."""
    with server(file) as port:
        load = asyncio.run(asked(port, "/v1/predict", images, TIMES * CAPACITY))
    count = Counter(status for status, _ in load.answers)
    said = ", ".join(f"{number:,} x {status}" for status, number in sorted(count.items()))
    print(f"Overload, {TIMES * CAPACITY} clients where {CAPACITY} requests are let in: {said}; ", end="")
    print(f"{load.rate():.1f} images/s answered, p99 {load.milliseconds(0.99):.0f} ms.\n", flush=True)


def start(file: Path, image: bytes) -> None:
    """Seconds from the start of the programs to their first answers."""
    spent = list[tuple[float, float]]()
    for _ in range(5):
        began = time.monotonic()
        with server(file, wait=False) as port:
            while asyncio.run(answered(port, image)) != 200:
                time.sleep(0.01)
            served = time.monotonic() - began
        began = time.monotonic()
        photo = file.with_name("photo.jpg")
        photo.write_bytes(image)
        words = [sys.executable, "-m", "graft_runtime", "predict", str(file), str(photo)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        spent.append((served, time.monotonic() - began))
    server_takes, runtime_takes = np.median(spent, axis=0)
    print(f"Start to first answer: `graft-runtime predict` {runtime_takes:.2f} s, ", end="")
    print(f"`graft-runtime serve` {server_takes:.2f} s (medians of 5).\n", flush=True)


def memory(file: Path, requests: int) -> None:
    """How much a long life adds, with a network so small that the server is most of the work."""
    images = [colours.image((number * 37 % 230, number * 61 % 230, number * 17 % 230)) for number in range(20)]
    with server(file) as port:
        (process,) = [each for each in psutil.Process().children() if "serve" in each.cmdline()]
        sizes = []
        for count in (requests // 20, requests):
            asyncio.run(asked(port, "/v1/predict", images, 16, count=count))
            family = [process, *process.children()]
            sizes.append((process.memory_info().rss / MB, sum(each.memory_info().rss for each in family) / MB))
    (own, whole), (own_after, whole_after) = sizes
    print(f"Memory after {requests // 20:,} requests and {requests:,} more: {own:.0f} and {own_after:.0f} MB ", end="")
    print(f"({own_after - own:+.1f} MB); with the decoders {whole:.0f} and {whole_after:.0f} MB.")


# --- servers and clients ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(file: Path, *, wait: bool = True) -> Iterator[int]:
    with _running(
        [sys.executable, "-m", "graft_runtime", "serve", str(file), "--port"], "/v2/health/live", wait
    ) as port:
        yield port


@contextlib.contextmanager
def naive(model: Path) -> Iterator[int]:
    script = str(Path(__file__).with_name("naive.py"))
    with _running([sys.executable, script, str(model)], "/openapi.json", wait=True) as port:
        yield port


@contextlib.contextmanager
def _running(command: Sequence[str], ready: str, wait: bool) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*command, str(port)], stdout=quiet, stderr=quiet)
    try:
        while wait and asyncio.run(answered(port, b"", ready)) != 200:
            assert process.poll() is None, f"{command} ended"
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


async def asked(port: int, path: str, images: list[bytes], clients: int, count: int | None = None) -> Load:
    """Clients that ask again as soon as they are answered, each on one connection, for a while or so many times."""
    answers, began = list[tuple[int, float]](), time.monotonic()
    turns = cycle(images)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (len(answers) < count) if count else (time.monotonic() - began < SECONDS):
            start = time.monotonic()
            try:
                status, wait = await _ask(reader, writer, path, next(turns))
            except (ConnectionError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                answers.append((0, 0.0))
                continue
            answers.append((status, time.monotonic() - start))
            await asyncio.sleep(wait)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(answers, time.monotonic() - began)


async def answered(port: int, image: bytes, path: str = "/v1/predict") -> int:
    """The status of one request, 0 where nobody listens yet."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _ = await _ask(reader, writer, path, image)
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0
    writer.close()
    return status


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, image: bytes
) -> tuple[int, float]:
    """(status, seconds that the server asks to wait)."""
    head = f"{'POST' if image else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(image)}\r\n\r\n"
    writer.write(head.encode() + image)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), float(headers.get("retry-after", 0))


if __name__ == "__main__":
    main()
