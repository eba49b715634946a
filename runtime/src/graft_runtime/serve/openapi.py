"""The OpenAPI document of the server: a test compares it with the routes and with real responses."""

from __future__ import annotations

from typing import Any

NUMBER, TEXT, BOOLEAN, INTEGER = {"type": "number"}, {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
ANY: dict[str, Any] = {}
TEXTS = {"type": "array", "items": TEXT}
FILE = {"type": "string", "format": "binary"}


def _object(optional: tuple[str, ...] = (), /, **entries: Any) -> dict[str, Any]:
    return {"type": "object", "properties": entries, "required": [name for name in entries if name not in optional]}


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ok(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": _as_json(schema)}


def _error_responses(*statuses: int, error: dict[str, Any]) -> dict[str, Any]:
    """Return the error responses of these statuses, and of those that every path has."""
    known = sorted({*statuses, *COMMON_STATUSES})
    return {str(status): {"description": STATUS_DESCRIPTIONS[status], "content": _as_json(error)} for status in known}


def _query_parameter(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _get_operation(summary: str, answer: dict[str, Any], *statuses: int, error: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": answer} | _error_responses(*statuses, error=error)}}


ERROR = _object(error=_object(code=TEXT, message=TEXT))
ERROR_V2 = _object(error=TEXT)  # as the Open Inference Protocol has it
STATUS_DESCRIPTIONS = {
    400: "The request is empty or malformed.",
    401: "The token is missing or wrong.",
    403: "A page of another server asked, or another name of this machine was used.",
    404: "There is no such model or version, or corrections are not kept.",
    408: "The request did not arrive in time, or too slowly while others waited.",
    413: "Too many bytes, pixels or images, of a packed body when it is unpacked.",
    415: "A form with files was expected, or the body is packed by other than gzip or deflate: see Accept-Encoding.",
    422: "An image cannot be read, or an option cannot be. A single image has its fault in the usual body.",
    429: "Too many requests or images are under way already: see Retry-After.",
    500: "The server failed at this request.",
    503: "There was no room or no answer in time: see Retry-After.",
    507: "The disk is full.",
}
COMMON_STATUSES = (403, 500, 503)
BODY_STATUSES = (400, 401, 408, 413, 415, 422, 429)  # and of what takes one
CONTENT_ENCODING = {
    "name": "Content-Encoding",
    "in": "header",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
    "description": "How the body is packed. The limits are those of what it unpacks to.",
}
NEIGHBOUR = _object(
    image=TEXT, labels=TEXTS, similarity=NUMBER, thumbnail={"type": ["string", "null"], "description": "data URI"}
)
SALIENCY_MAP = _object(
    rows={"type": "integer"},
    columns={"type": "integer"},
    values={"type": "array", "items": NUMBER, "description": "row by row: how much each place speaks for the class"},
    area={"type": "array", "items": NUMBER, "description": "left, top, width, height in fractions of the image"},
    **{"class": TEXT},
)
PREDICTION = _object(
    ("heat",),
    image=TEXT,
    label=TEXT | {"description": "the likeliest class; empty for an unknown image, and for one with a fault"},
    probability=NUMBER,
    labels=TEXTS | {"description": "what the image shows: one class, or any number of several labels"},
    unknown=BOOLEAN,
    prediction_set={
        "type": ["array", "null"],
        "items": TEXT,
        "description": "the prediction set, where coverage is asked for",
    },
    probabilities={"type": "object", "additionalProperties": NUMBER},
    nearest={"type": "array", "items": NEIGHBOUR},
    fault=TEXT | {"description": "why the image could not be judged; empty where it was"},
    heat={"oneOf": [SALIENCY_MAP, {"type": "null"}]},
)
PREDICTIONS = _object(
    predictions={"type": "array", "items": PREDICTION}, model=_object(name=TEXT, sha256=TEXT), milliseconds=NUMBER
)
MODEL = _object(
    **{"name": TEXT, "sha256": TEXT, "classes": TEXTS, "task": TEXT, "precision": TEXT},
    **{"thresholds": {"type": "array", "items": NUMBER}, "licences": {"type": "object", "additionalProperties": TEXT}},
    **dict.fromkeys(("unknown", "sets", "heat", "corrections", "evidence"), BOOLEAN),
    limits=_object(**dict.fromkeys(("bytes", "pixels", "images"), INTEGER)),
)
HEALTH = _object(live=BOOLEAN, ready=BOOLEAN)
READY = _object(name=TEXT, ready=BOOLEAN)
SHAPE = {"type": "array", "items": INTEGER}
TENSOR = _object(name=TEXT, datatype=TEXT, shape=SHAPE)
METADATA = _object(
    name=TEXT,
    versions=TEXTS,
    platform=TEXT,
    inputs={"type": "array", "items": TENSOR},
    outputs={"type": "array", "items": TENSOR},
)
OUTPUT = _object(("parameters", "data"), name=TEXT, datatype=TEXT, shape=SHAPE, parameters={"type": "object"}, data=ANY)
INFERENCE = _object(
    ("id",),
    model_name=TEXT,
    model_version=TEXT,
    id=TEXT,
    outputs={"type": "array", "items": OUTPUT},
)

PREDICT: dict[str, Any] = {
    "summary": "What images show",
    "parameters": [
        _query_parameter("heat", {"type": "integer", "enum": [0, 1]}, "1: where in the image the answer comes from."),
        _query_parameter("coverage", NUMBER, "Sets that hold the true class for this share of images, as 0.9."),
        _query_parameter("unknown", NUMBER, "Share of images of known classes that may be called unknown; 0 for none."),
        CONTENT_ENCODING,
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": FILE},
            "application/octet-stream": {"schema": FILE},
            "multipart/form-data": {"schema": _object(("images",), images={"type": "array", "items": FILE})},
            **_as_json(_object(images={"type": "array", "items": TEXT | {"description": "base64"}})),
        },
    },
    "responses": {"200": _ok("One prediction for each image, in order.", PREDICTIONS)}
    | _error_responses(*BODY_STATUSES, error=ERROR)
    | {"422": {"description": STATUS_DESCRIPTIONS[422], "content": _as_json({"oneOf": [ERROR, PREDICTIONS]})}},
}
CORRECT: dict[str, Any] = {
    "summary": "Keep an image with the right class, for the next training",
    "parameters": [CONTENT_ENCODING],
    "requestBody": {"content": {"multipart/form-data": {"schema": _object(image=FILE, label=TEXT)}}},
    "responses": {"201": _ok("Where it lies in the folder.", _object(stored=TEXT))}
    | _error_responses(*BODY_STATUSES, 404, 507, error=ERROR),
}
INFER: dict[str, Any] = {
    "summary": "Inference: input 'image' (UINT8 [n, height, width, 3]) or 'file' (BYTES [n])",
    "parameters": [CONTENT_ENCODING],
    "requestBody": {"content": _as_json({"type": "object"}) | {"application/octet-stream": {"schema": FILE}}},
    "responses": {
        "200": {
            "description": "The outputs.",
            "content": _as_json(INFERENCE) | {"application/octet-stream": {"schema": FILE}},
        }
    }
    | _error_responses(*BODY_STATUSES, 404, error=ERROR_V2),
}


def _model_paths(path: str, *names: str) -> dict[str, Any]:
    """Return the three paths of a model."""
    parameters = {"parameters": [{"name": each, "in": "path", "required": True, "schema": TEXT} for each in names]}
    return {
        path: parameters | _get_operation("Inputs and outputs", _ok("Metadata.", METADATA), 401, 404, error=ERROR_V2),
        f"{path}/ready": parameters
        | _get_operation("Whether it can answer", _ok("It can.", READY), 401, 404, error=ERROR_V2),
        f"{path}/infer": parameters | {"post": INFER},
    }


METRICS_TEXT = {"description": "Text.", "content": {"text/plain": {"schema": TEXT}}}
SERVER = _object(name=TEXT, version=TEXT, extensions=TEXTS)
PATHS: dict[str, Any] = {
    "/v1/model": _get_operation("The model, its classes and the server's limits", _ok("It.", MODEL), 401, error=ERROR),
    "/v1/predict": {"post": PREDICT},
    "/v1/corrections": {"post": CORRECT},
    "/v2": _get_operation("Open Inference Protocol: the server", _ok("Name and version.", SERVER), 401, error=ERROR_V2),
    "/v2/health/live": _get_operation("Whether the server lives", _ok("It does.", HEALTH), error=ERROR_V2),
    "/v2/health/ready": _get_operation("Whether it can answer", _ok("It can.", HEALTH), error=ERROR_V2),
    **_model_paths("/v2/models/{name}", "name"),
    **_model_paths("/v2/models/{name}/versions/{version}", "name", "version"),
    "/metrics": _get_operation("Figures for Prometheus", METRICS_TEXT, 401, error=ERROR),
}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "graft",
        "version": "1",
        "description": "A classifier for images. There is no prediction by URL: send the images.",
    },
    "paths": PATHS,
    "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    "security": [{"token": []}, {}],
}
