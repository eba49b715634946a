"""What each address of the server answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.staticfiles import StaticFiles

from graft_runtime.contract import PROBABILITIES, UNKNOWN
from graft_runtime.decide import RATE
from graft_runtime.image import ImageError
from graft_runtime.serve import answers, asked, corrections, kserve, metrics, openapi
from graft_runtime.serve.asked import Asked
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.decoders import Decoders
from graft_runtime.serve.guard import Guard, log
from graft_runtime.serve.line import Line
from graft_runtime.serve.metrics import Metrics
from graft_runtime.serve.model import Model, Served
from graft_runtime.serve.refusal import Refusal
from graft_runtime.serve.room import Room
from graft_runtime.serve.work import Judged, Work

PAGE = Path(__file__).parents[1] / "page"


@dataclass(frozen=True, eq=False)
class Desk:
    """Everything that the routes need."""

    model: Model
    bounds: Bounds
    metrics: Metrics
    room: Room
    work: Work
    corrections: Path | None

    # --- our own protocol ---------------------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        """GET /v1/model."""
        bounds, served = self.bounds, self.model.served
        limits = {"bytes": bounds.bytes, "pixels": bounds.pixels, "images": bounds.images}
        own = {"corrections": self.corrections is not None, "evidence": bool(served.predictor.evidence)}
        return JSONResponse(served.about | own | {"limits": limits})

    async def predict(self, request: Request) -> Response:
        """POST /v1/predict."""
        began, served, query = time.perf_counter(), self.model.served, request.query_params
        coverage = answers.share(query["coverage"], "coverage") if "coverage" in query else None
        unknown = answers.share(query.get("unknown", str(RATE)), "unknown")
        heat = query.get("heat", "0") not in ("0", "", "false")
        with self.room.share(request.client) as share:
            pictures = await asked.pictures(request, self.bounds, share)
            self._note(request, pictures)
            judged = await _while_there(request, self.work.judge(served, pictures, answers.wanted(served, heat)))
        told = [self._prediction(served, each, coverage, unknown, heat) for each in judged]
        body = {
            "predictions": told,
            "model": {"name": served.name, "sha256": served.sha256},
            "milliseconds": round(1000 * (time.perf_counter() - began), 1),
        }
        return JSONResponse(body, 422 if len(told) == 1 and told[0]["fault"] else 200)

    async def correct(self, request: Request) -> Response:
        """POST /v1/corrections."""
        if self.corrections is None:
            raise Refusal(404, "closed", "This server keeps no pictures: it was started without --corrections FOLDER.")
        with self.room.share(request.client) as share:
            form = await asked.fields(request, self.bounds, share)
            files = [value for name, value in form if name == "image" and isinstance(value, Asked)]
            labels = [value for name, value in form if name == "label" and isinstance(value, str)]
            if len(files) != 1 or len(labels) != 1:
                raise Refusal(422, "wrong_form", "Send one file as 'image' and its class as 'label'.")
            self._note(request, files)
            served = self.model.served
            try:
                await self.work.decoders.decode(files[0].data, served.predictor.card.enough, self.bounds.pixels)
            except ImageError as error:
                raise Refusal(422, "no_picture", f"The file is not kept: {error}.") from error
            own = (self.corrections, files[0].data, labels[0], served.predictor.classes)
            return JSONResponse({"stored": await asyncio.to_thread(corrections.stored, *own)}, 201)

    # --- the Open Inference Protocol ----------------------------------------------------------------------------------

    async def server(self, request: Request) -> Response:
        """GET /v2."""
        return JSONResponse({"name": "graft", "version": "2", "extensions": ["binary_tensor_data"]})

    async def alive(self, request: Request) -> Response:
        """GET /v2/health/live and /v2/health/ready: what answers has a model."""
        return JSONResponse({"live": True, "ready": True})

    async def described(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        return JSONResponse(kserve.about(self._named(request)))

    async def ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        return JSONResponse({"name": self._named(request).name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        served = self._named(request)
        with self.room.share(request.client) as share:
            body = await asked.body(request, self.bounds, share)
            wish = await asyncio.to_thread(kserve.wish, body, request.headers, self.bounds)
            self._note(request, wish.files)
            outputs = answers.wanted(served, heat=False)
            if wish.pixels is None:
                work = self.work.judge(served, wish.files, outputs)
            else:
                work = self.work.judge_pixels(served, wish.pixels, outputs)
            judged = await _while_there(request, work)
        if faults := [f"{each.name}: {each.fault}" for each in judged if each.fault]:
            raise Refusal(422, "no_picture", "; ".join(faults))
        found = [each.found for each in judged if each.found]
        told = [self._prediction(served, each, None, RATE, heat=False) for each in judged]
        tensors = {name: answers.rows(found, name) for name in (PROBABILITIES, UNKNOWN)}
        content, headers = kserve.reply(served, wish, tensors | {kserve.LABEL: [each["label"] for each in told]})
        return Response(content, headers=headers)

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def counted(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), media_type=metrics.FORMAT)

    async def documented(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(openapi.DOCUMENT)

    def _named(self, request: Request) -> Served:
        served, name = self.model.served, request.path_params["name"]
        if name != served.name:
            raise Refusal(404, "no_model", f"There is no model {name!r}; this server has {served.name!r}.")
        version = request.path_params.get("version", served.version)
        if version != served.version:  # that of before a reload, perhaps
            raise Refusal(404, "no_version", f"There is no version {version!r}; this server has {served.version!r}.")
        return served

    def _prediction(
        self, served: Served, judged: Judged, coverage: float | None, unknown: float, heat: bool
    ) -> dict[str, Any]:
        told = answers.told(served, judged, coverage, unknown)
        self.metrics.pictures.labels("fault" if told.fault else "unknown" if told.unknown else "known").inc()
        return told.as_dict() | ({"heat": answers.heat(served, judged)} if heat else {})

    def _note(self, request: Request, pictures: list[Asked]) -> None:
        """For the log: how many pictures, how large, and which, by the first digits of their content's SHA-256."""
        sums = [hashlib.sha256(each.data).hexdigest()[:12] for each in pictures[:4]]
        size = sum(len(each.data) for each in pictures)
        request.state.note.update({"pictures": len(pictures), "bytes": size, "sha256": sums})


def application(
    model: Model, bounds: Bounds, *, token: str = "", hosts: Collection[str] = (), corrections: Path | None = None
) -> Guard:
    """The server as an ASGI application; `hosts` are the names that it answers to where no token is asked for."""
    counts = Metrics()
    line, decoders = Line(counts.ran), Decoders(model.served.predictor.threads, bounds.decode, bounds.memory)
    work = Work(bounds, decoders, line, counts)
    desk = Desk(model, bounds, counts, Room(bounds.held), work, corrections)
    counts.waits(lambda: work.waiting)
    counts.serves(model.served.name, model.served.sha256)

    def reloaded(digest: str, fault: str) -> None:
        counts.reloads.labels("refused" if fault else "taken").inc()
        counts.serves(model.served.name, model.served.sha256)
        log.log(
            logging.WARNING if fault else logging.INFO,
            json.dumps({"model": digest, "refused": fault} if fault else {"model": digest}),
        )

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(line.work()), asyncio.create_task(model.watch(reloaded))]
        try:
            await decoders.start()
        except OSError as error:  # uvicorn keeps it to itself
            log.critical(json.dumps({"error": f"No process that decodes pictures can be started: {error}"}))
            raise
        yield
        for task in tasks:
            task.cancel()
        await decoders.close()
        line.close()

    return Guard(
        Router(_routes(desk), redirect_slashes=False, lifespan=lifespan), bounds, counts, token, frozenset(hosts)
    )


def _routes(desk: Desk) -> list[Route]:
    files, model = StaticFiles(directory=PAGE, html=True), "/v2/models/{name}"
    return [
        Route("/v1/model", desk.about),
        Route("/v1/predict", desk.predict, methods=["POST"]),
        Route("/v1/corrections", desk.correct, methods=["POST"]),
        Route("/v2", desk.server),
        *(Route(path, desk.alive) for path in ("/v2/health/live", "/v2/health/ready")),
        *(Route(path, desk.described) for path in _each(model)),
        *(Route(f"{path}/ready", desk.ready) for path in _each(model)),
        *(Route(f"{path}/infer", desk.infer, methods=["POST"]) for path in _each(model)),
        Route("/metrics", desk.counted),
        Route("/openapi.json", desk.documented),
        Route("/answerer.js", lambda request: FileResponse(PAGE / "ask-server.js")),
        *(Route(path, files) for path in ("/", "/{file}")),  # not a mount, which would take any method of any path
    ]


def _each(model: str) -> tuple[str, str]:
    """Where a model is asked for: by its name alone, and with the version that its metadata names."""
    return model, f"{model}/versions/{{version}}"


async def _while_there(request: Request, work: Coroutine[Any, Any, list[Judged]]) -> list[Judged]:
    """The work's result; it is given up when the client goes away."""
    wanted, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise ClientDisconnect
        return wanted.result()
    finally:
        wanted.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Until the client hangs up: its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
