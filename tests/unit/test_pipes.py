"""The pool of pipes: their size, their number, and what happens where there is none."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from portproxy.dataplane.base import BUFFER_BYTES
from portproxy.dataplane.pipes import POOLED, Pipe, PipePool


@pytest.fixture
def pool() -> Iterator[PipePool]:
    pool = PipePool(1 << 18)
    yield pool
    pool.close()


def taken(pool: PipePool) -> Pipe:
    pipe = pool.take()
    assert pipe
    return pipe


def is_open(number: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{number}")


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, BUFFER_BYTES), (1000, BUFFER_BYTES), (BUFFER_BYTES + 1, 2 * BUFFER_BYTES), (1 << 20, 1 << 20)],
)
def test_the_size_is_what_the_kernel_gave(asked: int, given: int) -> None:
    pool = PipePool(asked)
    pipe = taken(pool)
    assert pipe.capacity == given == fcntl.fcntl(pipe.reader, fcntl.F_GETPIPE_SZ)
    pipe.close()


def test_a_pipe_takes_a_whole_buffer_and_does_not_block(pool: PipePool) -> None:
    pipe = taken(pool)
    assert os.write(pipe.writer, bytes(BUFFER_BYTES)) == BUFFER_BYTES
    assert len(os.read(pipe.reader, 2 * BUFFER_BYTES)) == BUFFER_BYTES
    with pytest.raises(BlockingIOError):
        os.read(pipe.reader, 1)
    assert not os.get_inheritable(pipe.reader)
    assert not os.get_inheritable(pipe.writer)
    pipe.close()


def test_what_is_given_back_is_taken_again(pool: PipePool) -> None:
    pipe = taken(pool)
    pool.give_back(pipe)
    assert taken(pool) is pipe
    other = taken(pool)
    assert other is not pipe
    pool.give_back(pipe)
    pool.give_back(other)


def test_no_more_are_kept_than_are_of_use(pool: PipePool) -> None:
    pipes = [taken(pool) for _ in range(POOLED + 3)]
    for pipe in pipes:
        pool.give_back(pipe)
    kept = [pipe for pipe in pipes if is_open(pipe.reader)]
    assert len(kept) == POOLED
    pool.close()
    assert not any(is_open(end) for pipe in pipes for end in (pipe.reader, pipe.writer))


def test_a_closed_pool_stays_usable(pool: PipePool) -> None:
    pool.give_back(taken(pool))
    pool.close()
    pool.close()
    pool.give_back(taken(pool))


def test_a_retired_pool_keeps_nothing(pool: PipePool) -> None:
    out, pooled = taken(pool), taken(pool)
    pool.give_back(pooled)
    pool.retire()
    assert not is_open(pooled.reader)
    assert not is_open(pooled.writer)
    assert is_open(out.reader)
    pool.give_back(out)
    assert not is_open(out.reader)
    assert not is_open(out.writer)


@pytest.mark.parametrize("left", [0, 1])
def test_none_where_descriptors_have_run_out(pool: PipePool, left: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, limits[1]))
    try:
        assert pool.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    pool.give_back(taken(pool))
