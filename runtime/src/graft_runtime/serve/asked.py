"""A request to the pictures in it: the bytes of one, a form with files, or JSON with base64."""

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

from graft_runtime.serve import packing
from graft_runtime.serve.bounds import MB, Bounds
from graft_runtime.serve.refusal import Refusal
from graft_runtime.serve.room import Share

FORM, JSON = "multipart/form-data", "application/json"
MARKS = 1_000_000  # commas and brackets of a JSON: it is read in one go, for which all others wait, 0.2 s
EXAMPLE = '{"images": ["<base64>"]}'


@dataclass(frozen=True)
class Asked:
    """A picture as it came: what the client calls it, and the bytes of its file."""

    name: str
    data: bytes


async def pictures(request: Request, bounds: Bounds, share: Share) -> list[Asked]:
    """The pictures of a request. Raises Refusal."""
    kind = _kind(request)
    if kind == FORM:
        form = await fields(request, bounds, share)
        found = [each for _, each in form if isinstance(each, Asked)]
    elif kind == JSON:
        found = await asyncio.to_thread(_from_json, await body(request, bounds, share), bounds)
    else:
        found = [Asked("picture 0", await body(request, bounds, share))]
    if not found or not any(each.data for each in found):
        raise Refusal(
            400, "empty", f"There is no picture in the request: send its bytes, files in a form, or {EXAMPLE}."
        )
    return found


async def body(request: Request, bounds: Bounds, share: Share) -> bytes:
    """The whole body. Raises Refusal."""
    async with share.arriving(bounds.body):
        return b"".join([chunk async for chunk in _chunks(request, bounds, share)])


async def fields(request: Request, bounds: Bounds, share: Share) -> list[tuple[str, Asked | str]]:
    """The fields of a form and its files, in memory alone. Raises Refusal."""
    if _kind(request) != FORM:
        raise Refusal(415, "wrong_type", f"This takes a form with files: Content-Type {FORM}.")
    told = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8").lower()
    if told not in (b"utf-8", b"utf8"):  # some codecs of Python take minutes, or make what is no text
        raise Refusal(400, "wrong_form", "The form cannot be read: its names and labels have to be UTF-8.")
    parser = MultiPartParser(
        request.headers, _chunks(request, bounds, share), max_files=bounds.images, max_fields=8, max_part_size=MB
    )
    parser.spool_max_size = bounds.bytes + 1  # never a file on the disk
    try:
        async with share.arriving(bounds.body):
            form = await parser.parse()
    except MultiPartException as error:
        raise _of_form(error, bounds) from error
    found = list[tuple[str, Asked | str]]()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            found.append((name, Asked(value.filename or f"picture {len(found)}", await value.read())))
            await value.close()
        else:
            found.append((name, value))
    return found


async def _chunks(request: Request, bounds: Bounds, share: Share) -> AsyncGenerator[bytes, None]:
    """The body as it comes, unpacked, as long as it is not too much."""
    most = bounds.bytes * 4 // 3 + MB if _kind(request) == JSON else bounds.bytes
    if _told_size(request) > most:
        raise _too_large(bounds)
    size = 0
    async for chunk in packing.unpacked(request.stream(), request.headers.get("content-encoding", "")):
        share.take(len(chunk))
        size += len(chunk)
        if size > most:
            raise _too_large(bounds)
        yield chunk


def _told_size(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0


def _from_json(raw: bytes, bounds: Bounds) -> list[Asked]:
    entries = parsed(raw)
    texts = entries.get("images") if isinstance(entries, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "wrong_json", f"The JSON has no list of pictures. Send {EXAMPLE}.")
    if len(texts) > bounds.images:
        raise _too_many(bounds)
    return [Asked(f"picture {row}", from_base64(text, row)) for row, text in enumerate(texts)]


def parsed(raw: bytes) -> Any:
    """JSON. Raises Refusal."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > MARKS:
        raise Refusal(413, "too_large", f"A JSON has at most {MARKS:,} entries. Send pictures as files, or binary.")
    try:
        return json.loads(raw, parse_float=str)  # no request has any, and millions take a second
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "wrong_json", f"The body is no JSON: {error}. Send {EXAMPLE}.") from error


def from_base64(text: str, row: int) -> bytes:
    """The bytes, also of a data URL. Raises Refusal."""
    try:
        return b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, "wrong_base64", f"Picture {row} is no base64: {error}.") from error


def _of_form(error: MultiPartException, bounds: Bounds) -> Refusal:
    if "Too many files" in error.message:
        return _too_many(bounds)
    return Refusal(400, "wrong_form", f"The form cannot be read: {error.message}")


def _too_many(bounds: Bounds) -> Refusal:
    return Refusal(413, "too_many", f"At most {bounds.images} pictures go into one request. Send more requests.")


def _too_large(bounds: Bounds) -> Refusal:
    return Refusal(413, "too_large", f"A request has at most {bounds.bytes // MB} MB. Send smaller pictures, or fewer.")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
