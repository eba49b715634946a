"""What the server answers, as an OpenAPI document: a test compares it with the routes."""

from __future__ import annotations

from typing import Any

NUMBER, TEXT, YES = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
FILE = {"type": "string", "format": "binary"}


def _object(**entries: Any) -> dict[str, Any]:
    return {"type": "object", "properties": entries}


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ok(text: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": text, "content": _as_json(schema or {"type": "object"})}


def _refused(*statuses: int) -> dict[str, Any]:
    return {str(status): {"description": WHY[status], "content": _as_json(ERROR)} for status in statuses}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


ERROR = _object(error=_object(code=TEXT, message=TEXT))
WHY = {
    400: "The request is empty or malformed.",
    401: "The token is missing or wrong.",
    404: "There is no such model, or corrections are not kept.",
    408: "The request did not arrive in time.",
    413: "Too many bytes, pixels or pictures.",
    415: "A form with files was expected.",
    422: "A picture cannot be read, or an option cannot be. A single picture has its fault in the usual body.",
    429: "Too many wait already: see Retry-After.",
    503: "There was no room or no answer in time: see Retry-After.",
    507: "The disk is full.",
}
NEIGHBOUR = _object(
    picture=TEXT, labels=TEXTS, similarity=NUMBER, thumbnail={"type": ["string", "null"], "description": "data URI"}
)
HEAT = _object(
    rows={"type": "integer"},
    columns={"type": "integer"},
    values={"type": "array", "items": NUMBER, "description": "row by row: how much each place speaks for the class"},
    area={"type": "array", "items": NUMBER, "description": "left, top, width, height in fractions of the picture"},
    **{"class": TEXT},
)
PREDICTION = _object(
    picture=TEXT,
    label=TEXT | {"description": "the likeliest class; empty for an unknown image, and for one with a fault"},
    probability=NUMBER,
    labels=TEXTS | {"description": "what the picture shows: one class, or any number of several labels"},
    unknown=YES,
    among={"type": ["array", "null"], "items": TEXT, "description": "the prediction set, where coverage is asked for"},
    probabilities={"type": "object", "additionalProperties": NUMBER},
    nearest={"type": "array", "items": NEIGHBOUR},
    fault=TEXT | {"description": "why the picture could not be judged; empty where it was"},
    heat={"oneOf": [HEAT, {"type": "null"}]},
)
PREDICTIONS = _object(
    predictions={"type": "array", "items": PREDICTION}, model=_object(name=TEXT, sha256=TEXT), milliseconds=NUMBER
)
MODEL_NAME = [{"name": "name", "in": "path", "required": True, "schema": TEXT}]

PATHS: dict[str, Any] = {
    "/v1/model": {
        "get": {"summary": "The model, its classes and the server's limits", "responses": {"200": _ok("It.")}}
    },
    "/v1/predict": {
        "post": {
            "summary": "What pictures show",
            "parameters": [
                _query("heat", {"type": "integer", "enum": [0, 1]}, "1: where in the picture the answer comes from."),
                _query("coverage", NUMBER, "Sets that hold the true class for this share of pictures, as 0.9."),
                _query("unknown", NUMBER, "Share of pictures of known classes that may be called unknown; 0 for none."),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "image/*": {"schema": FILE},
                    "application/octet-stream": {"schema": FILE},
                    "multipart/form-data": {"schema": _object(images={"type": "array", "items": FILE})},
                    **_as_json(_object(images={"type": "array", "items": TEXT | {"description": "base64"}})),
                },
            },
            "responses": {"200": _ok("One prediction for each picture, in order.", PREDICTIONS)}
            | _refused(400, 401, 408, 413, 422, 429, 503),
        }
    },
    "/v1/corrections": {
        "post": {
            "summary": "Keep a picture with the right class, for the next training",
            "requestBody": {"content": {"multipart/form-data": {"schema": _object(image=FILE, label=TEXT)}}},
            "responses": {"201": _ok("Where it lies in the folder.", _object(stored=TEXT))}
            | _refused(401, 404, 408, 413, 415, 422, 503, 507),
        }
    },
    "/v2": {"get": {"summary": "Open Inference Protocol: the server", "responses": {"200": _ok("Name and version.")}}},
    "/v2/health/live": {"get": {"summary": "Whether the server lives", "responses": {"200": _ok("It does.")}}},
    "/v2/health/ready": {"get": {"summary": "Whether it can answer", "responses": {"200": _ok("It can.")}}},
    "/v2/models/{name}": {
        "parameters": MODEL_NAME,
        "get": {"summary": "Inputs and outputs", "responses": {"200": _ok("Metadata.")} | _refused(404)},
    },
    "/v2/models/{name}/ready": {
        "parameters": MODEL_NAME,
        "get": {"summary": "Whether the model can answer", "responses": {"200": _ok("It can.")} | _refused(404)},
    },
    "/v2/models/{name}/infer": {
        "parameters": MODEL_NAME,
        "post": {
            "summary": "Inference: input 'image' (UINT8 [n, height, width, 3]) or 'file' (BYTES [n])",
            "requestBody": {"content": _as_json({"type": "object"}) | {"application/octet-stream": {"schema": FILE}}},
            "responses": {"200": _ok("The outputs.")} | _refused(400, 401, 404, 408, 413, 422, 429, 503),
        },
    },
    "/metrics": {"get": {"summary": "Figures for Prometheus", "responses": {"200": {"description": "Text."}}}},
}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "graft",
        "version": "1",
        "description": "A classifier for pictures. There is no prediction by URL: send the pictures.",
    },
    "paths": PATHS,
    "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    "security": [{"token": []}, {}],
}
