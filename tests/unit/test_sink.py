from __future__ import annotations

import array
import fcntl
import math
import os
import re
import select
import stat
import sys
import termios
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from trio._core import _thread_cache

from portproxy.errors import StartError
from portproxy.sink import QUEUE, LineSink


def line(number: int) -> bytes:
    """100 bytes, so that a pipe's 64 KiB end within one."""
    return b"%099d\n" % number


def lines(first: int, last: int) -> bytes:
    return b"".join(map(line, range(first, last)))


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's read and write ends, closed at the end where they still are open."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 16)
    try:
        yield ends
    finally:
        for end in ends:
            with suppress(OSError):
                os.close(end)


async def read(fd: int, size: int) -> bytes:
    """``size`` bytes off ``fd``, or what there is before the end of the stream."""
    data = b""
    while len(data) < size and (more := await trio.to_thread.run_sync(os.read, fd, 4096)):
        data += more
    return data


async def test_lines_reach_a_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    sink = LineSink(str(path), line)
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        for number in range(1000):
            sink.put(number)
        nursery.cancel_scope.cancel()
    assert path.read_bytes() == b"before\n" + lines(0, 1000)
    assert sink.lost == 0


async def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    sink = LineSink(str(path), line)
    assert stat.S_IMODE(path.stat().st_mode) & 0o037 == 0
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        nursery.cancel_scope.cancel()


def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^log file .*/none/access\.log: No such file or directory$"):
        LineSink(str(tmp_path / "none" / "access.log"), line)


def test_a_fifo_without_a_reader_is_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StartError, match="No such device or address"):
        LineSink(str(tmp_path / "fifo"), line)


async def test_lines_come_while_the_relay_runs(nursery: trio.Nursery) -> None:
    with pipe() as (reader, writer):
        sink = LineSink(writer, line)
        await nursery.start(sink.run)
        for number in range(5):
            sink.put(number)
            assert await read(reader, 100) == line(number)


async def test_a_full_queue_loses_and_counts_and_a_slow_reader_gets_whole_lines(
    nursery: trio.Nursery,
) -> None:
    with pipe() as (reader, writer):
        sink = LineSink(writer, line)
        await nursery.start(sink.run)
        for number in range(QUEUE + 1000):
            sink.put(number)
        assert sink.lost == 1000
        assert await read(reader, QUEUE * 100) == lines(0, QUEUE)
        sink.put(-1)
        assert await read(reader, 100) == line(-1)
        assert sink.lost == 1000


async def test_a_blocked_pipe_does_not_hold_up_the_stop() -> None:
    with pipe() as (reader, writer):
        sink = LineSink(writer, line)
        async with trio.open_nursery() as nursery:
            await nursery.start(sink.run)
            for number in range(2000):
                sink.put(number)
            await until(lambda: held(reader) > 512 * 100)
            nursery.cancel_scope.cancel()
        # Two slices of 256 lines fit into the pipe; a third was stuck half-way in write(2).
        assert sink.lost == 2000 - 512
        os.close(reader)


async def test_the_flags_of_an_inherited_descriptor_stay(nursery: trio.Nursery) -> None:
    with pipe() as (reader, writer):
        sink = LineSink(writer, line)
        await nursery.start(sink.run)
        sink.put(0)
        assert await read(reader, 100) == line(0)
        assert os.get_blocking(writer)


async def test_a_descriptor_that_someone_made_nonblocking_loses_nothing(nursery: trio.Nursery) -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        sink = LineSink(writer, line)
        await nursery.start(sink.run)
        for number in range(2000):
            sink.put(number)
        assert await read(reader, 200_000) == lines(0, 2000)
        assert sink.lost == 0


async def test_a_full_disk_is_said_once_and_its_lines_are_counted() -> None:
    said: list[str] = []
    sink = LineSink("/dev/full", line, said.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        for number in range(600):
            sink.put(number)
        nursery.cancel_scope.cancel()
    assert sink.lost == 600
    assert said == ["log /dev/full: lines are being lost: No space left on device"]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under RLIMIT_NPROC; and none that is idle is left."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread_cache, "THREAD_CACHE", _thread_cache.ThreadCache())
    monkeypatch.setattr(threading.Thread, "start", start)


async def test_without_a_thread_lines_are_counted_as_lost_until_there_is_one(
    tmp_path: Path, nursery: trio.Nursery, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue("no_threads")
    path = tmp_path / "access.log"
    said: list[str] = []
    sink = LineSink(str(path), line, said.append)
    await nursery.start(sink.run)
    for number in range(600):
        sink.put(number)
    await until(lambda: sink.lost == 600)
    sink.reopen()
    await until(lambda: len(said) == 2)
    assert said == [
        f"log {path}: lines are being lost: no thread can be started",
        f"log file {path}: not reopened, the old one goes on: no thread can be started",
    ]
    monkeypatch.undo()
    sink.put(1)
    await until(lambda: path.read_bytes() == line(1))
    assert sink.lost == 600


async def test_a_line_torn_by_an_error_is_finished_first_when_writing_goes_on(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    said: list[str] = []
    failed = trio.Event()

    def on_error(text: str) -> None:
        said.append(text)
        failed.set()

    sink = LineSink(path, line, on_error)
    await nursery.start(sink.run)
    for number in range(768):
        sink.put(number)
    await until(lambda: held(first) > 512 * 100)
    torn, part = divmod(held(first), 100)
    assert part
    os.close(first)
    await failed.wait()
    assert sink.lost == 768 - torn - 1
    second = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(second, True)
    sink.put(1000)
    # What the first reader left is still in the FIFO, as the sink keeps it open.
    expected = lines(0, torn + 1) + line(1000)
    assert await read(second, len(expected)) == expected
    assert said == [f"log {path}: lines are being lost: Broken pipe"]
    os.close(second)


def held(fd: int) -> int:
    """Bytes in the pipe behind ``fd`` (pipe(7), FIONREAD)."""
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await trio.sleep(0.001)


async def test_reopen_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    sink = LineSink(str(path), line)
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        sink.put(1)
        await until(lambda: path.stat().st_size == 100)
        path.rename(old)
        sink.reopen()
        await until(path.exists)
        sink.put(2)
        nursery.cancel_scope.cancel()
    assert old.read_bytes() == line(1)
    assert path.read_bytes() == line(2)


async def test_reopen_that_fails_goes_on_in_the_old_file(tmp_path: Path) -> None:
    folder, moved = tmp_path / "log", tmp_path / "moved"
    folder.mkdir()
    said: list[str] = []
    sink = LineSink(str(folder / "a"), line, said.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        folder.rename(moved)
        sink.reopen()
        sink.put(1)
        nursery.cancel_scope.cancel()
    assert (moved / "a").read_bytes() == line(1)
    assert said == [f"log file {folder}/a: not reopened, the old one goes on: No such file or directory"]


async def test_reopen_of_a_descriptor_does_nothing(nursery: trio.Nursery) -> None:
    with pipe() as (reader, writer):
        sink = LineSink(writer, line)
        await nursery.start(sink.run)
        sink.reopen()
        sink.put(1)
        assert await read(reader, 100) == line(1)


async def test_an_idle_sink_never_wakes(nursery: trio.Nursery) -> None:
    with pipe() as (reader, writer):
        sink = LineSink(writer, line)
        await nursery.start(sink.run)
        sink.put(1)
        assert await read(reader, 100) == line(1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


OTHER = """
import sys
sys.path[:] = sys.argv[4:]
import trio
from portproxy.sink import LineSink

fd, mark = int(sys.argv[1]), sys.argv[2].encode()
lengths = eval(sys.argv[3])

async def main():
    sink = LineSink(fd, lambda number: mark * (lengths[number % len(lengths)] - 1) + b"\\n", shared=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        for number in range(100 * len(lengths)):
            sink.put(number)
        while sink._queue:
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    sys.exit(sink.lost)

trio.run(main)
"""


async def written_by_two(lengths: Sequence[int]) -> bytes:
    """What two processes write to one pipe: a hundred lines of each length, of "a" and of "b"."""
    with pipe() as (reader, writer):
        processes = [
            await trio.lowlevel.open_process(
                [sys.executable, "-c", OTHER, str(writer), mark, repr(lengths), *sys.path], pass_fds=[writer]
            )
            for mark in "ab"
        ]
        os.close(writer)
        data = await read(reader, 1 << 30)
        assert [await process.wait() for process in processes] == [0, 0]
    return data


async def test_lines_of_processes_that_share_a_pipe_are_not_torn() -> None:
    lengths = [100, select.PIPE_BUF, 101, 3000, select.PIPE_BUF - 1, 2000]
    data = await written_by_two(lengths)
    whole = [mark * (length - 1) for mark in (b"a", b"b") for length in lengths]
    assert Counter(data.splitlines()) == dict.fromkeys(whole, 100)


async def test_a_line_longer_than_a_pipe_takes_whole_does_not_tear_others() -> None:
    lengths = [100, 5000, 3000, 2000]
    data = await written_by_two(lengths)
    for mark in ("a", "b"):
        runs = Counter(map(len, re.findall(f"{mark}+\n".encode(), data)))
        assert [runs[length] for length in lengths if length <= select.PIPE_BUF] == [100] * 3
        assert data.count(mark.encode()) == 100 * (sum(lengths) - len(lengths)), "lost"


async def test_what_waits_is_counted_until_it_is_written_or_lost(nursery: trio.Nursery) -> None:
    waiting = [0]

    def count(more: int) -> None:
        waiting[0] += more

    with pipe() as (reader, writer):
        sink = LineSink(writer, line, count=count)
        for number in range(QUEUE + 10):
            sink.put(number)
        assert waiting == [QUEUE]
        await nursery.start(sink.run)
        assert await read(reader, QUEUE * 100) == lines(0, QUEUE)
        await until(lambda: waiting == [0])
        assert sink.lost == 10
        os.close(reader)
        sink.put(1)
        await until(lambda: sink.lost == 11)
        await until(lambda: waiting == [0])
