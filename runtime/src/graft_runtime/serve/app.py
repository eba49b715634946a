"""The ASGI application: endpoints and routes."""

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
from graft_runtime.decide import UNKNOWN_RATE
from graft_runtime.image import ImageError
from graft_runtime.serve import corrections, kserve, metrics, openapi, request_body, responses
from graft_runtime.serve.batcher import Batcher
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.decoder_pool import DecoderPool
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.inference import ImageResult, InferenceQueue
from graft_runtime.serve.metrics import Metrics
from graft_runtime.serve.middleware import GuardMiddleware, log
from graft_runtime.serve.model import Model, ServedModel
from graft_runtime.serve.request_body import ImageFile
from graft_runtime.serve.upload import UploadBuffer

PAGE = Path(__file__).parents[1] / "page"


@dataclass(frozen=True, eq=False)
class Endpoints:
    """The endpoints of the server, and what they share.

    Their function names are the values of the metric label `route`, so they stay as they are.
    """

    model: Model
    bounds: Bounds
    metrics: Metrics
    uploads: UploadBuffer
    inference: InferenceQueue
    corrections: Path | None

    # --- our own protocol ---------------------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        """GET /v1/model."""
        bounds, served = self.bounds, self.model.served
        limits = {"bytes": bounds.bytes, "pixels": bounds.pixels, "images": bounds.images}
        own = {"corrections": self.corrections is not None, "evidence": bool(served.predictor.evidence)}
        return JSONResponse(served.metadata | own | {"limits": limits})

    async def predict(self, request: Request) -> Response:
        """POST /v1/predict."""
        began, served, query = time.perf_counter(), self.model.served, request.query_params
        coverage = responses.parse_share(query["coverage"], "coverage") if "coverage" in query else None
        unknown = responses.parse_share(query.get("unknown", str(UNKNOWN_RATE)), "unknown")
        heat = query.get("heat", "0") not in ("0", "", "false")
        with self.uploads.open_upload(request.client) as share:
            images = await request_body.read_images(request, self.bounds, share)
            self._note_images(request, images)
            judged = await _run_while_connected(
                request, self.inference.run_files(served, images, responses.list_outputs(served, heat))
            )
        predictions = [self._build_prediction(served, each, coverage, unknown, heat) for each in judged]
        body = {
            "predictions": predictions,
            "model": {"name": served.name, "sha256": served.sha256},
            "milliseconds": round(1000 * (time.perf_counter() - began), 1),
        }
        return JSONResponse(body, 422 if len(predictions) == 1 and predictions[0]["fault"] else 200)

    async def correct(self, request: Request) -> Response:
        """POST /v1/corrections."""
        if self.corrections is None:
            raise RequestError(
                404, "closed", "This server keeps no images: it was started without --corrections FOLDER."
            )
        with self.uploads.open_upload(request.client) as share:
            form = await request_body.read_form(request, self.bounds, share)
            files = [value for name, value in form if name == "image" and isinstance(value, ImageFile)]
            labels = [value for name, value in form if name == "label" and isinstance(value, str)]
            if len(files) != 1 or len(labels) != 1:
                raise RequestError(422, "wrong_form", "Send one file as 'image' and its class as 'label'.")
            self._note_images(request, files)
            served = self.model.served
            try:
                await self.inference.decoders.decode(files[0].data, served.predictor.card.enough, self.bounds.pixels)
            except ImageError as error:
                raise RequestError(422, "no_image", f"The file is not kept: {error}.") from error
            own = (self.corrections, files[0].data, labels[0], served.predictor.classes)
            return JSONResponse({"stored": await asyncio.to_thread(corrections.store_image, *own)}, 201)

    # --- the Open Inference Protocol ----------------------------------------------------------------------------------

    async def server(self, request: Request) -> Response:
        """GET /v2."""
        return JSONResponse({"name": "graft", "version": "2", "extensions": ["binary_tensor_data"]})

    async def alive(self, request: Request) -> Response:
        """GET /v2/health/live and /v2/health/ready: a server that answers has a model."""
        return JSONResponse({"live": True, "ready": True})

    async def described(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        return JSONResponse(kserve.build_metadata(self._find_model(request)))

    async def ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        return JSONResponse({"name": self._find_model(request).name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        served = self._find_model(request)
        with self.uploads.open_upload(request.client) as share:
            body = await request_body.read_body(request, self.bounds, share)
            wish = await asyncio.to_thread(kserve.parse_request, body, request.headers, self.bounds)
            self._note_images(request, wish.files)
            outputs = responses.list_outputs(served, saliency=False)
            if wish.pixels is None:
                work = self.inference.run_files(served, wish.files, outputs)
            else:
                work = self.inference.run_arrays(served, wish.pixels, outputs)
            judged = await _run_while_connected(request, work)
        if faults := [f"{each.name}: {each.fault}" for each in judged if each.fault]:
            raise RequestError(422, "no_image", "; ".join(faults))
        found = [each.found for each in judged if each.found]
        predictions = [self._build_prediction(served, each, None, UNKNOWN_RATE, heat=False) for each in judged]
        tensors = {name: responses.stack_output(found, name) for name in (PROBABILITIES, UNKNOWN)}
        content, headers = kserve.build_response(
            served, wish, tensors | {kserve.LABEL: [each["label"] for each in predictions]}
        )
        return Response(content, headers=headers)

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def counted(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.render(), media_type=metrics.CONTENT_TYPE)

    async def documented(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(openapi.DOCUMENT)

    def _find_model(self, request: Request) -> ServedModel:
        served, name = self.model.served, request.path_params["name"]
        if name != served.name:
            raise RequestError(404, "no_model", f"There is no model {name!r}; this server has {served.name!r}.")
        version = request.path_params.get("version", served.version)
        if version != served.version:  # that of before a reload, perhaps
            raise RequestError(
                404, "no_version", f"There is no version {version!r}; this server has {served.version!r}."
            )
        return served

    def _build_prediction(
        self, served: ServedModel, result: ImageResult, coverage: float | None, unknown: float, heat: bool
    ) -> dict[str, Any]:
        prediction = responses.build_prediction(served, result, coverage, unknown)
        self.metrics.images.labels("fault" if prediction.fault else "unknown" if prediction.unknown else "known").inc()
        return prediction.as_dict() | ({"heat": responses.build_saliency_map(served, result)} if heat else {})

    def _note_images(self, request: Request, images: list[ImageFile]) -> None:
        """Add to the log entry: number of images, size, and the first digits of the SHA-256 of each."""
        sums = [hashlib.sha256(each.data).hexdigest()[:12] for each in images[:4]]
        size = sum(len(each.data) for each in images)
        request.state.note.update({"images": len(images), "bytes": size, "sha256": sums})


def build_app(
    model: Model, bounds: Bounds, *, token: str = "", hosts: Collection[str] = (), corrections: Path | None = None
) -> GuardMiddleware:
    """Build the ASGI application; `hosts` are the Host names that it accepts without a token."""
    counts = Metrics()
    batcher, decoders = (
        Batcher(counts.observe_batch),
        DecoderPool(model.served.predictor.threads, bounds.decode, bounds.memory),
    )
    inference = InferenceQueue(bounds, decoders, batcher, counts)
    endpoints = Endpoints(model, bounds, counts, UploadBuffer(bounds.held), inference, corrections)
    counts.watch_waiting(lambda: inference.waiting)
    counts.set_model(model.served.name, model.served.sha256)

    def log_reload(digest: str, fault: str) -> None:
        counts.reloads.labels("refused" if fault else "taken").inc()
        counts.set_model(model.served.name, model.served.sha256)
        log.log(
            logging.WARNING if fault else logging.INFO,
            json.dumps({"model": digest, "refused": fault} if fault else {"model": digest}),
        )

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(batcher.run_forever()), asyncio.create_task(model.watch(log_reload))]
        try:
            await decoders.start()
        except OSError as error:  # uvicorn keeps it to itself
            log.critical(json.dumps({"error": f"No process that decodes images can be started: {error}"}))
            raise
        yield
        for task in tasks:
            task.cancel()
        await decoders.close()
        batcher.close()

    return GuardMiddleware(
        Router(_routes(endpoints), redirect_slashes=False, lifespan=lifespan), bounds, counts, token, frozenset(hosts)
    )


def _routes(endpoints: Endpoints) -> list[Route]:
    files, model = StaticFiles(directory=PAGE, html=True), "/v2/models/{name}"
    return [
        Route("/v1/model", endpoints.about),
        Route("/v1/predict", endpoints.predict, methods=["POST"]),
        Route("/v1/corrections", endpoints.correct, methods=["POST"]),
        Route("/v2", endpoints.server),
        *(Route(path, endpoints.alive) for path in ("/v2/health/live", "/v2/health/ready")),
        *(Route(path, endpoints.described) for path in _model_paths(model)),
        *(Route(f"{path}/ready", endpoints.ready) for path in _model_paths(model)),
        *(Route(f"{path}/infer", endpoints.infer, methods=["POST"]) for path in _model_paths(model)),
        Route("/metrics", endpoints.counted),
        Route("/openapi.json", endpoints.documented),
        Route("/answerer.js", lambda request: FileResponse(PAGE / "ask-server.js")),
        *(Route(path, files) for path in ("/", "/{file}")),  # not a mount, which would take any method of any path
    ]


def _model_paths(model: str) -> tuple[str, str]:
    """Return the paths of a model: by its name alone, and with a version."""
    return model, f"{model}/versions/{{version}}"


async def _run_while_connected(request: Request, work: Coroutine[Any, Any, list[ImageResult]]) -> list[ImageResult]:
    """Return the result of the work; cancel it when the client disconnects."""
    result, gone = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        result.cancel()
        gone.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until the client disconnects; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
