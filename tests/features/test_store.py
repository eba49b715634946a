"""The store: what was written is read, by anyone, whatever happened to the disk or the writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.errors import OutputError
from graft.features.store import Key, Store

ENTRY = 24  # bytes: digest, view, checksum
WIDTH = 3

WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from graft.features.store import Store

folder, first, count, how = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
store = Store(folder, (3,))
print("ready", flush=True)
if how == "wait":
    sys.stdin.readline()
if how == "killed":  # in the middle of the second write: some numbers, no index
    def half(entries, dtype, made=np.array):
        if dtype.names and store._written:
            os.kill(os.getpid(), signal.SIGKILL)
        return made(entries, dtype)
    sys.modules["graft.features.store"].np.array = half
for start in range(first, first + count, 5):
    keys = [(number.to_bytes(16), 0) for number in range(start, start + 5)]
    store.add(keys, np.arange(start, start + 5, dtype=np.float32)[:, None] * np.ones(3, np.float32))
store.close()
"""


def keys(count: int, first: int = 0, view: int = 0) -> list[Key]:
    return [((first + number).to_bytes(16), view) for number in range(count)]


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def filled(folder: Path, count: int = 4) -> tuple[Path, Path]:
    """A store with some rows; its file of numbers and its index."""
    with Store(folder, (WIDTH,)) as store:
        store.add(keys(count), rows(count))
    (numbers,), (index,) = folder.glob("*.rows"), folder.glob("*.index")
    return numbers, index


def writer(folder: Path, first: int, count: int, how: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(count), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_what_was_written_is_read_in_any_order_before_and_after_closing(tmp_path: Path) -> None:
    with Store(tmp_path / "a", (WIDTH,)) as store:
        for start in (0, 4):
            store.add(keys(4, start), rows(8)[start : start + 4])
            assert np.array_equal(store.read(keys(start + 4)), rows(8)[: start + 4])
        order = [5, 0, 5, 7]
        asked = [keys(8)[at] for at in order]
        assert np.array_equal(store.read(asked), rows(8)[order])
    assert np.array_equal(store.read(asked), rows(8)[order])
    assert len(store) == 8
    again = Store(tmp_path / "a", (WIDTH,))
    assert np.array_equal(again.read(asked), rows(8)[order])
    assert all(key in again for key in keys(8))


def test_rows_may_have_more_than_one_axis(tmp_path: Path) -> None:
    numbers = rows(8).reshape(4, 2, 3)
    with Store(tmp_path, (2, 3)) as store:
        store.add(keys(4), numbers)
    assert np.array_equal(Store(tmp_path, (2, 3)).read(keys(4)[::-1]), numbers[::-1])


def test_in_16_bits_rows_are_rounded_clipped_and_read_as_32(tmp_path: Path) -> None:
    numbers = np.array([[1 / 3, 70_000, -1e9], [np.inf, -np.inf, 65_504], [1e-9, 1.0, -2.5]], np.float32)
    want = np.array([[1 / 3, 65_504, -65_504], [65_504, -65_504, 65_504], [0, 1.0, -2.5]], np.float16)
    with Store(tmp_path, (WIDTH,), np.float16) as store:
        store.add(keys(3), numbers)
        assert np.array_equal(store.read(keys(3)), want.astype(np.float32))
    again = Store(tmp_path, (WIDTH,), np.float16)
    assert again.read(keys(3)).dtype == np.float32
    assert np.array_equal(again.read(keys(3)), want.astype(np.float32))
    assert all(key in again for key in keys(3))  # the checksum is that of the 16 bits
    (file,) = tmp_path.glob("*.rows")
    assert file.stat().st_size == 3 * WIDTH * 2


@pytest.mark.parametrize("missing", range(1, 2 * WIDTH + 1))
def test_numbers_of_16_bits_cut_short_lose_their_last_row_only(tmp_path: Path, missing: int) -> None:
    with Store(tmp_path, (WIDTH,), np.float16) as store:
        store.add(keys(4), rows(4))
    (file,) = tmp_path.glob("*.rows")
    os.truncate(file, 4 * 2 * WIDTH - missing)
    store = Store(tmp_path, (WIDTH,), np.float16)
    assert [key in store for key in keys(4)] == [True, True, True, False]
    assert np.array_equal(store.read(keys(3)), rows(4)[:3].astype(np.float16).astype(np.float32))


def test_views_of_one_image_are_rows_of_their_own(tmp_path: Path) -> None:
    with Store(tmp_path, (WIDTH,)) as store:
        store.add(keys(2, view=0) + keys(2, view=2**32 - 1), rows(4))
    again = Store(tmp_path, (WIDTH,))
    assert np.array_equal(again.read(keys(2, view=2**32 - 1)), rows(4)[2:])
    assert keys(1, view=1)[0] not in again
    with pytest.raises(KeyError):
        again.read(keys(1, view=1))


def test_names_that_end_in_zero_bytes_are_kept(tmp_path: Path) -> None:
    names = [(b"\1" + bytes(15), 0), (bytes(16), 0), (b"\1\0\2" + bytes(13), 0)]
    with Store(tmp_path, (WIDTH,)) as store:
        store.add(names, rows(3))
    assert np.array_equal(Store(tmp_path, (WIDTH,)).read(names), rows(3))


@pytest.mark.parametrize("missing", range(1, ENTRY + 1))
def test_an_index_cut_short_loses_its_last_entry_only(tmp_path: Path, missing: int) -> None:
    _, index = filled(tmp_path)
    os.truncate(index, 4 * ENTRY - missing)
    store = Store(tmp_path, (WIDTH,))
    assert [key in store for key in keys(4)] == [True, True, True, False]
    assert np.array_equal(store.read(keys(3)), rows(4)[:3])


@pytest.mark.parametrize("missing", range(1, 4 * WIDTH + 1))
def test_numbers_cut_short_lose_their_last_row_only(tmp_path: Path, missing: int) -> None:
    numbers, _ = filled(tmp_path)
    os.truncate(numbers, 4 * 4 * WIDTH - missing)
    store = Store(tmp_path, (WIDTH,))
    assert [key in store for key in keys(4)] == [True, True, True, False]
    assert np.array_equal(store.read(keys(3)), rows(4)[:3])


@pytest.mark.parametrize("end", [".rows", ".index"])
def test_an_empty_or_absent_half_counts_for_nothing(tmp_path: Path, end: str) -> None:
    file = next(file for file in filled(tmp_path) if file.suffix == end)
    file.write_bytes(b"")
    assert len(Store(tmp_path, (WIDTH,))) == 0
    file.unlink()
    assert len(Store(tmp_path, (WIDTH,))) == 0


@pytest.mark.parametrize("place", range(4 * WIDTH, 8 * WIDTH))
def test_a_changed_byte_is_noticed_and_the_row_written_anew(tmp_path: Path, place: int) -> None:
    numbers, _ = filled(tmp_path)
    raw = bytearray(numbers.read_bytes())
    raw[place] ^= 1
    numbers.write_bytes(raw)
    with Store(tmp_path, (WIDTH,)) as store:
        assert [key in store for key in keys(4)] == [True, False, True, True]
        store.add(keys(1, 1), rows(4)[1:2])
        assert np.array_equal(store.read(keys(4)), rows(4))


def test_a_row_written_anew_is_found_by_the_next_run(tmp_path: Path) -> None:
    """Whatever the two files are called: the sound row wins over the damaged one."""
    for name in ("0", "zzz"):
        folder = tmp_path / name
        numbers, index = filled(folder)
        raw = bytearray(numbers.read_bytes())
        raw[0] ^= 1
        (folder / f"{name}.rows").write_bytes(raw)
        index.rename(folder / f"{name}.index")
        numbers.unlink()
        with Store(folder, (WIDTH,)) as store:
            assert keys(1)[0] not in store
            store.add(keys(1), rows(4)[:1])
        assert keys(1)[0] in Store(folder, (WIDTH,)), name


def test_two_processes_write_at_once_and_both_are_kept(tmp_path: Path) -> None:
    both = [writer(tmp_path, first, 500, "wait") for first in (0, 500)]
    for child in both:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in both:
        child.communicate(b"go\n")
        assert child.returncode == 0
    store = Store(tmp_path, (WIDTH,))
    assert len(store) == 1000
    assert np.array_equal(store.read(keys(1000))[:, 0], np.arange(1000))


@pytest.mark.fault(40)
def test_a_writer_that_is_killed_leaves_whole_rows(tmp_path: Path) -> None:
    child = writer(tmp_path, 0, 500, "killed")
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    (numbers,) = tmp_path.glob("*.rows")
    assert numbers.stat().st_size == 10 * 4 * WIDTH  # the second five were written, and never indexed
    store = Store(tmp_path, (WIDTH,))
    assert len(store) == 5
    assert all(key in store for key in keys(5))
    assert np.array_equal(store.read(keys(5))[:, 0], np.arange(5))


def test_nothing_is_written_where_nothing_is_computed(tmp_path: Path) -> None:
    filled(tmp_path)
    with Store(tmp_path, (WIDTH,)) as store:
        store.read(keys(4))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.fault(34)
def test_a_full_disk_is_said_so_with_what_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path, (WIDTH,)) as store:
        store.add(keys(4), rows(4))
        assert store._files is not None
        written = os.dup(store._files[0].fileno())
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), store._files[0].fileno())
        with pytest.raises(OutputError, match=r"The disk is full.*4 are kept there.*GRAFT_CACHE"):
            store.add(keys(4, 4), rows(4))
        os.dup2(written, store._files[0].fileno())
    assert [key in Store(tmp_path, (WIDTH,)) for key in keys(8)] == [True] * 4 + [False] * 4


def test_any_other_fault_of_the_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OutputError, match=r"Writing failed \(Permission denied\)"):
        Store(tmp_path, (WIDTH,)).add(keys(1), rows(1))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=rf"{tmp_path}/file/cache cannot be made \(Not a directory\).*GRAFT_CACHE"):
        Store(tmp_path / "file" / "cache", (WIDTH,))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sealed(path: Path) -> None:
    path.touch()  # root reads it all the same
    path.chmod(0)


ODD = {
    "folder": Path.mkdir,
    "pipe": pipe,
    "sealed": sealed,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("index", ODD)
@pytest.mark.parametrize("numbers", ODD)
def test_entries_that_cannot_be_read_are_passed_over(tmp_path: Path, index: str, numbers: str) -> None:
    filled(tmp_path)
    ODD[index](tmp_path / "other.index")
    ODD[numbers](tmp_path / "other.rows")
    with Store(tmp_path, (WIDTH,)) as store:
        assert len(store) == 4
        assert all(key in store for key in keys(4))
        store.add(keys(2, first=10), rows(2, seed=1))
    assert np.array_equal(Store(tmp_path, (WIDTH,)).read(keys(2, first=10)), rows(2, seed=1))


def test_an_index_without_its_numbers_says_nothing(tmp_path: Path) -> None:
    numbers, _ = filled(tmp_path)
    numbers.unlink()
    assert len(Store(tmp_path, (WIDTH,))) == 0
