"""A reader of the few pickles that PyTorch's weights are: numbers, texts, containers and tensors, and nothing else.

Python's own unpickler imports and calls what a file names, and makes room for what a file announces. This one knows no
import and no call: a name in the file is looked up in a table, and what is not there is refused. What it makes is
limited by the number of steps, and no text is longer than the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

STEPS = 1_000_000  # a tensor takes about 40; the largest networks have a few thousand
LONGEST = 1 << 20  # bytes of a text
DIMENSIONS = 32  # of a tensor; numpy has 64 at most
WIDEST = 16  # bytes of a whole number; the longest in a real file has 10

# Kinds of storages -> numpy's name of the numbers in them.
KINDS = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


class Refused(ValueError):
    """What has no place in a file of weights, or is no pickle."""


@dataclass(frozen=True)
class Name:
    """A name in the file, looked up nowhere but in the table below."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers in a row, elsewhere in the file."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: which numbers of a storage it shows."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()


def load(stream: BufferedIOBase, size: int) -> tuple[Any, dict[str, Storage]]:
    """The next object in the stream, and all storages that it names; so many bytes are left at most. Raises Refused."""
    machine = _Machine(stream, size)
    try:
        return machine.run(), machine.storages
    except (IndexError, KeyError, TypeError, ValueError, struct.error, RecursionError) as fault:
        if isinstance(fault, Refused):
            raise
        raise Refused(f"its pickle is damaged ({type(fault).__name__})") from fault


class _Machine:
    """The stack and the memory of one pickle."""

    def __init__(self, stream: BufferedIOBase, size: int) -> None:
        self.stream, self.left = stream, size
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(STEPS):
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise Refused(f"its pickle has the step {bytes([code])!r}, which no file of weights needs")
            step(self)
        raise Refused(f"its pickle has more than {STEPS:,} steps")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise Refused("it ends too early")
        found = self.stream.read(count)
        if len(found) != count:
            raise Refused("it ends too early")
        self.left -= count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        found = self.stream.readline(LONGEST)
        self.left -= len(found)
        if not found.endswith(b"\n"):
            raise Refused("it ends within a name")
        return found[:-1].decode()

    def text(self, form: str) -> str:
        count = self.number(form)
        if not 0 <= count <= LONGEST:
            raise Refused(f"it announces a text of {count:,} bytes")
        return self.take(count).decode()

    def whole(self, form: str) -> int:
        count = self.number(form)
        if not 0 <= count <= WIDEST:
            raise Refused(f"it announces a number of {count:,} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise Refused("its pickle is damaged (a mark in the place of a value)")
        return value

    def to_mark(self) -> list[Any]:
        """What lies above the last mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise Refused("its pickle is damaged (no mark)")

    def keep(self, place: int) -> None:
        self.memory[place] = self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("its pickle is damaged (no list)")
        self.stack[-1].extend(values)

    def fill(self, pairs: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict or len(pairs) % 2:
            raise Refused("its pickle is damaged (no dictionary)")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int, float, bool):  # hashing nested tuples could exhaust the C stack
                raise Refused(f"it has a {type(key).__name__} as a name")
            into[key] = value

    def build(self) -> None:
        """What a dictionary holds beside its items: PyTorch's versions of layers, which nobody needs here."""
        state = self.pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise Refused("it sets the state of an object")

    def call(self) -> None:
        given, name = self.pop(), self.pop()
        if not isinstance(name, Name) or type(given) is not tuple:
            raise Refused("it calls something that is no function")
        self.push(_TABLE[name](*given) if name in _TABLE else _refuse(name))

    def storage(self) -> None:
        given = self.pop()
        if type(given) is not tuple or len(given) < 5 or given[0] != "storage" or not isinstance(given[1], Name):
            raise Refused("it refers to something that is no storage")
        kind, key, count = given[1], given[2], given[4]
        if len(given) > 5 and given[5] is not None:
            raise Refused("it holds views of storages, as PyTorch wrote them before version 0.4; save it anew")
        if kind.module not in ("torch", "torch.storage") or kind.name not in KINDS:
            raise Refused(f"it holds numbers of kind {kind.module}.{kind.name}; legal are {', '.join(KINDS)}")
        if type(key) is not str or type(count) is not int or count < 0:
            raise Refused("it names a storage that cannot be")
        found = Storage(KINDS[kind.name], key, count)
        if self.storages.setdefault(key, found) != found:
            raise Refused(f"it says two things of the storage {key[:20]!r}")
        self.push(found)

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused("it names something that is no name")
        found = Name(module, name)
        if found not in _TABLE and not (module in ("torch", "torch.storage") and name.endswith("Storage")):
            _refuse(found)
        self.push(found)


def _refuse(name: Name) -> Any:
    raise Refused(f"it names {name.module[:80]}.{name.name[:80]}, which has no place in a file of weights")


def _empty() -> dict[Any, Any]:
    return {}


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> View:
    """A tensor as the file describes it; whether it lies within its storage is checked before any of it is made."""
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise Refused("it holds a tensor without a storage, a shape or strides")
    if len(shape) > DIMENSIONS or len(shape) != len(strides):
        raise Refused(
            f"it holds a tensor of {len(shape)} dimensions and {len(strides)} strides; {DIMENSIONS} are legal"
        )
    if any(type(each) is not int or not 0 <= each < 2**62 for each in (offset, *shape, *strides)):
        raise Refused(
            f"it holds a tensor of shape {str(shape)[:80]}, strides {str(strides)[:80]} at {str(offset)[:20]}"
        )
    count = 1
    for each in shape:
        count *= each
    last = offset + sum((each - 1) * step for each, step in zip(shape, strides, strict=True))
    # More numbers than the storage has would be one number many times over: memory out of nothing.
    if count and (last >= storage.count or count > storage.count):
        raise Refused(
            f"it holds a tensor of shape {list(shape)[:8]}, which needs more than the {storage.count} numbers "
            "of its storage"
        )
    return View(storage, offset, shape, strides)


def _parameter(view: Any, *_rest: Any) -> View:
    if not isinstance(view, View):
        raise Refused("it holds a parameter without a tensor")
    return view


_TABLE: dict[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): _empty,
    Name("torch._utils", "_rebuild_tensor"): _view,
    Name("torch._utils", "_rebuild_tensor_v2"): _view,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
}


def _tuple(machine: _Machine, count: int) -> None:
    values = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(values)))


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.extend([value])


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill([key, value])


def _stack_name(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.named(module, name)


_STEPS: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: how much follows, as a hint
    0x28: lambda m: m.push(_MARK),  # MARK
    0x30: lambda m: m.pop(),  # POP
    0x31: lambda m: m.to_mark(),  # POP_MARK
    0x4E: lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    0x4A: lambda m: m.push(m.number("<i")),  # BININT
    0x4B: lambda m: m.push(m.number("<B")),  # BININT1
    0x4D: lambda m: m.push(m.number("<H")),  # BININT2
    0x8A: lambda m: m.push(m.whole("<B")),  # LONG1
    0x8B: lambda m: m.push(m.whole("<i")),  # LONG4
    0x47: lambda m: m.push(m.number(">d")),  # BINFLOAT
    0x58: lambda m: m.push(m.text("<I")),  # BINUNICODE
    0x8C: lambda m: m.push(m.text("<B")),  # SHORT_BINUNICODE
    0x8D: lambda m: m.push(m.text("<Q")),  # BINUNICODE8
    0x54: lambda m: m.push(m.text("<i")),  # BINSTRING, of Python 2
    0x55: lambda m: m.push(m.text("<B")),  # SHORT_BINSTRING, of Python 2
    0x5D: lambda m: m.push([]),  # EMPTY_LIST
    0x7D: lambda m: m.push({}),  # EMPTY_DICT
    0x29: lambda m: m.push(()),  # EMPTY_TUPLE
    0x74: lambda m: m.push(tuple(m.to_mark())),  # TUPLE
    0x85: lambda m: _tuple(m, 1),  # TUPLE1
    0x86: lambda m: _tuple(m, 2),  # TUPLE2
    0x87: lambda m: _tuple(m, 3),  # TUPLE3
    0x61: _append,  # APPEND
    0x65: lambda m: m.extend(m.to_mark()),  # APPENDS
    0x73: _set_item,  # SETITEM
    0x75: lambda m: m.fill(m.to_mark()),  # SETITEMS
    0x71: lambda m: m.keep(m.number("<B")),  # BINPUT
    0x72: lambda m: m.keep(m.number("<I")),  # LONG_BINPUT
    0x94: lambda m: m.keep(len(m.memory)),  # MEMOIZE
    0x68: lambda m: m.push(m.memory[m.number("<B")]),  # BINGET
    0x6A: lambda m: m.push(m.memory[m.number("<I")]),  # LONG_BINGET
    0x63: lambda m: m.named(m.line(), m.line()),  # GLOBAL
    0x93: _stack_name,  # STACK_GLOBAL
    0x51: lambda m: m.storage(),  # BINPERSID
    0x52: lambda m: m.call(),  # REDUCE
    0x62: lambda m: m.build(),  # BUILD
}
