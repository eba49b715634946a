"""What the server answers, as an OpenAPI document: a test compares it with the routes and with real answers."""

from __future__ import annotations

from typing import Any

NUMBER, TEXT, YES, WHOLE = {"type": "number"}, {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
ANY: dict[str, Any] = {}
TEXTS = {"type": "array", "items": TEXT}
FILE = {"type": "string", "format": "binary"}


def _object(optional: tuple[str, ...] = (), /, **entries: Any) -> dict[str, Any]:
    return {"type": "object", "properties": entries, "required": [name for name in entries if name not in optional]}


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ok(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": _as_json(schema)}


def _refused(*statuses: int, error: dict[str, Any]) -> dict[str, Any]:
    """What is answered with these statuses, and with those that every address has."""
    known = sorted({*statuses, *EVERYWHERE})
    return {str(status): {"description": WHY[status], "content": _as_json(error)} for status in known}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _got(summary: str, answer: dict[str, Any], *statuses: int, error: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": answer} | _refused(*statuses, error=error)}}


ERROR = _object(error=_object(code=TEXT, message=TEXT))
ERROR_V2 = _object(error=TEXT)  # as the Open Inference Protocol has it
WHY = {
    400: "The request is empty or malformed.",
    401: "The token is missing or wrong.",
    403: "A page of another server asked, or another name of this machine was used.",
    404: "There is no such model or version, or corrections are not kept.",
    408: "The request did not arrive in time, or too slowly while others waited.",
    413: "Too many bytes, pixels or pictures, of a packed body when it is unpacked.",
    415: "A form with files was expected, or the body is packed by other than gzip or deflate: see Accept-Encoding.",
    422: "A picture cannot be read, or an option cannot be. A single picture has its fault in the usual body.",
    429: "Too many requests or pictures are under way already: see Retry-After.",
    500: "The server failed at this request.",
    503: "There was no room or no answer in time: see Retry-After.",
    507: "The disk is full.",
}
EVERYWHERE = (403, 500, 503)
BODY = (400, 401, 408, 413, 415, 422, 429)  # and of what takes one
PACKED = {
    "name": "Content-Encoding",
    "in": "header",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
    "description": "How the body is packed. The limits are those of what it unpacks to.",
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
    ("heat",),
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
MODEL = _object(
    **{"name": TEXT, "sha256": TEXT, "classes": TEXTS, "task": TEXT, "precision": TEXT},
    **{"thresholds": {"type": "array", "items": NUMBER}, "licences": {"type": "object", "additionalProperties": TEXT}},
    **dict.fromkeys(("unknown", "sets", "heat", "corrections", "evidence"), YES),
    limits=_object(**dict.fromkeys(("bytes", "pixels", "images"), WHOLE)),
)
HEALTH = _object(live=YES, ready=YES)
READY = _object(name=TEXT, ready=YES)
SHAPE = {"type": "array", "items": WHOLE}
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
    "summary": "What pictures show",
    "parameters": [
        _query("heat", {"type": "integer", "enum": [0, 1]}, "1: where in the picture the answer comes from."),
        _query("coverage", NUMBER, "Sets that hold the true class for this share of pictures, as 0.9."),
        _query("unknown", NUMBER, "Share of pictures of known classes that may be called unknown; 0 for none."),
        PACKED,
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
    "responses": {"200": _ok("One prediction for each picture, in order.", PREDICTIONS)}
    | _refused(*BODY, error=ERROR)
    | {"422": {"description": WHY[422], "content": _as_json({"oneOf": [ERROR, PREDICTIONS]})}},
}
CORRECT: dict[str, Any] = {
    "summary": "Keep a picture with the right class, for the next training",
    "parameters": [PACKED],
    "requestBody": {"content": {"multipart/form-data": {"schema": _object(image=FILE, label=TEXT)}}},
    "responses": {"201": _ok("Where it lies in the folder.", _object(stored=TEXT))}
    | _refused(*BODY, 404, 507, error=ERROR),
}
INFER: dict[str, Any] = {
    "summary": "Inference: input 'image' (UINT8 [n, height, width, 3]) or 'file' (BYTES [n])",
    "parameters": [PACKED],
    "requestBody": {"content": _as_json({"type": "object"}) | {"application/octet-stream": {"schema": FILE}}},
    "responses": {
        "200": {
            "description": "The outputs.",
            "content": _as_json(INFERENCE) | {"application/octet-stream": {"schema": FILE}},
        }
    }
    | _refused(*BODY, 404, error=ERROR_V2),
}


def _model(path: str, *names: str) -> dict[str, Any]:
    """The three addresses of a model."""
    given = {"parameters": [{"name": each, "in": "path", "required": True, "schema": TEXT} for each in names]}
    return {
        path: given | _got("Inputs and outputs", _ok("Metadata.", METADATA), 401, 404, error=ERROR_V2),
        f"{path}/ready": given | _got("Whether it can answer", _ok("It can.", READY), 401, 404, error=ERROR_V2),
        f"{path}/infer": given | {"post": INFER},
    }


FIGURES = {"description": "Text.", "content": {"text/plain": {"schema": TEXT}}}
SERVER = _object(name=TEXT, version=TEXT, extensions=TEXTS)
PATHS: dict[str, Any] = {
    "/v1/model": _got("The model, its classes and the server's limits", _ok("It.", MODEL), 401, error=ERROR),
    "/v1/predict": {"post": PREDICT},
    "/v1/corrections": {"post": CORRECT},
    "/v2": _got("Open Inference Protocol: the server", _ok("Name and version.", SERVER), 401, error=ERROR_V2),
    "/v2/health/live": _got("Whether the server lives", _ok("It does.", HEALTH), error=ERROR_V2),
    "/v2/health/ready": _got("Whether it can answer", _ok("It can.", HEALTH), error=ERROR_V2),
    **_model("/v2/models/{name}", "name"),
    **_model("/v2/models/{name}/versions/{version}", "name", "version"),
    "/metrics": _got("Figures for Prometheus", FIGURES, 401, error=ERROR),
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
