"""Read the images of a request: the bytes of one, a form with files, or JSON with base64."""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import b64decode
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from graft_runtime.serve import compression
from graft_runtime.serve.bounds import MB, Bounds
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.upload import Upload

FORM, JSON = "multipart/form-data", "application/json"
MAX_JSON_MARKS = 1_000_000  # commas and brackets of a JSON: it is read in one go, for which all others wait, 0.2 s
EXAMPLE = '{"images": ["<base64>"]}'


@dataclass(frozen=True)
class ImageFile:
    """An image file of a request: its name and its bytes."""

    name: str
    data: bytes


async def read_images(request: Request, bounds: Bounds, upload: Upload) -> list[ImageFile]:
    """Read the images of a request. Raises RequestError."""
    kind = _content_type(request)
    if kind == FORM:
        form = await read_form(request, bounds, upload)
        found = [each for _, each in form if isinstance(each, ImageFile)]
    elif kind == JSON:
        found = await asyncio.to_thread(_images_from_json, await read_body(request, bounds, upload), bounds)
    else:
        found = [ImageFile("image 0", await read_body(request, bounds, upload))]
    if not found or not any(each.data for each in found):
        raise RequestError(
            400, "empty", f"There is no image in the request: send its bytes, files in a form, or {EXAMPLE}."
        )
    return found


async def read_body(request: Request, bounds: Bounds, upload: Upload) -> bytes:
    """Read the whole body. Raises RequestError."""
    async with upload.limit_time(bounds.body):
        return b"".join([chunk async for chunk in _read_chunks(request, bounds, upload)])


async def read_form(request: Request, bounds: Bounds, upload: Upload) -> list[tuple[str, ImageFile | str]]:
    """Read the fields and files of a form, in memory only. Raises RequestError."""
    if _content_type(request) != FORM:
        raise RequestError(415, "wrong_type", f"This takes a form with files: Content-Type {FORM}.")
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8"):  # some codecs of Python take minutes, or make what is no text
        raise RequestError(400, "wrong_form", "The form cannot be read: its names and labels have to be UTF-8.")
    parser = MultiPartParser(
        request.headers, _read_chunks(request, bounds, upload), max_files=bounds.images, max_fields=8, max_part_size=MB
    )
    parser.spool_max_size = bounds.bytes + 1  # never a file on the disk
    try:
        async with upload.limit_time(bounds.body):
            form = await parser.parse()
    except MultiPartException as error:
        raise _refuse_form(error, bounds) from error
    found = list[tuple[str, ImageFile | str]]()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            found.append((name, ImageFile(value.filename or f"image {len(found)}", await value.read())))
            await value.close()
        else:
            found.append((name, value))
    return found


async def _read_chunks(request: Request, bounds: Bounds, upload: Upload) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed body in chunks. Raises RequestError if it is too large."""
    max_bytes = bounds.bytes * 4 // 3 + MB if _content_type(request) == JSON else bounds.bytes
    if _content_length(request) > max_bytes:
        raise _too_large(bounds)
    size = 0
    async for chunk in compression.decompress(request.stream(), request.headers.get("content-encoding", "")):
        upload.add_bytes(len(chunk))
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(bounds)
        yield chunk


def _content_length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0


def _images_from_json(raw: bytes, bounds: Bounds) -> list[ImageFile]:
    entries = parse_json(raw)
    texts = entries.get("images") if isinstance(entries, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, "wrong_json", f"The JSON has no list of images. Send {EXAMPLE}.")
    if len(texts) > bounds.images:
        raise _too_many(bounds)
    return [ImageFile(f"image {row}", decode_base64(text, row)) for row, text in enumerate(texts)]


def parse_json(raw: bytes) -> Any:
    """Parse JSON. Raises RequestError."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_JSON_MARKS:
        raise RequestError(
            413, "too_large", f"A JSON has at most {MAX_JSON_MARKS:,} entries. Send images as files, or binary."
        )
    try:
        return json.loads(raw, parse_float=str)  # no request has any, and millions take a second
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "wrong_json", f"The body is no JSON: {error}. Send {EXAMPLE}.") from error


def decode_base64(text: str, row: int) -> bytes:
    """Decode base64, also of a data URL. Raises RequestError."""
    try:
        return b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "wrong_base64", f"Image {row} is no base64: {error}.") from error


def _refuse_form(error: MultiPartException, bounds: Bounds) -> RequestError:
    if "Too many files" in error.message:
        return _too_many(bounds)
    return RequestError(400, "wrong_form", f"The form cannot be read: {error.message}")


def _too_many(bounds: Bounds) -> RequestError:
    return RequestError(413, "too_many", f"At most {bounds.images} images go into one request. Send more requests.")


def _too_large(bounds: Bounds) -> RequestError:
    return RequestError(
        413, "too_large", f"A request has at most {bounds.bytes // MB} MB. Send smaller images, or fewer."
    )


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
