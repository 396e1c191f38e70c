"""Rows of counters, in one process and in two."""

from __future__ import annotations

import array
import errno
import fcntl
import itertools
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portproxy import counters
from portproxy.tallies import BLOCKS, Tallies, shareable
from tests.conftest import open_descriptors

CHILD = """
import os, socket, sys
sys.path[:] = sys.argv[2:]
from portproxy.tallies import Tallies
sock = socket.socket(fileno=int(sys.argv[1]))
_, (fd,), _, _ = socket.recv_fds(sock, 100, 1)
tallies = Tallies(3, fd)
os.close(fd)
sock.send(b"done")
while words := sock.recv(100):
    number, row, slot, more = map(int, words.split())
    tallies.block(number, row)[slot] += more
    sock.send(b"done")
"""


@contextmanager
def another_process(shared: int) -> Iterator[socket.socket]:
    """One that maps the memory ``shared``, and adds what it is told."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", CHILD, str(theirs.fileno()), *sys.path]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            ours.sendmsg([b"map"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [shared]))])
            assert ours.recv(10) == b"done"
            yield ours
            ours.close()
        assert process.returncode == 0


def add(sock: socket.socket, number: int, row: int, slot: int, more: int) -> None:
    sock.send(b"%d %d %d %d" % (number, row, slot, more))
    assert sock.recv(10) == b"done"


@contextmanager
def memory(rows: int) -> Iterator[int]:
    fd = shareable(rows)
    try:
        yield fd
    finally:
        os.close(fd)


def test_all_is_zero_at_first() -> None:
    with memory(2) as fd:
        for tallies in (Tallies(2), Tallies(2, fd)):
            assert [sum(tallies.total(number)) for number in (0, 1, BLOCKS - 1)] == [0] * 3
            assert len(tallies.blocks(BLOCKS - 1)) == tallies.rows == 2


places = st.tuples(
    st.sampled_from([0, 1, BLOCKS - 2, BLOCKS - 1]),
    st.integers(0, 2),
    st.sampled_from([0, 1, counters.SLOTS - 1]),
)


@settings(max_examples=30)
@given(st.lists(st.tuples(places, st.integers(1, 1 << 40)), max_size=20))
def test_every_place_is_its_own_and_a_total_is_its_rows_sum(
    writes: list[tuple[tuple[int, int, int], int]],
) -> None:
    tallies = Tallies(3)
    expected: dict[tuple[int, int, int], int] = {}
    for (number, row, slot), more in writes:
        tallies.block(number, row)[slot] += more
        expected[number, row, slot] = expected.get((number, row, slot), 0) + more
    for number in {number for (number, _, _), _ in writes}:
        for row, block in enumerate(tallies.blocks(number)):
            here = {slot: count for (n, r, slot), count in expected.items() if (n, r) == (number, row)}
            assert {slot: count for slot, count in enumerate(block) if count} == here
        total = tallies.total(number)
        assert total == [sum(column) for column in zip(*tallies.blocks(number), strict=True)]


def test_clear_zeroes_every_row_of_one_number() -> None:
    tallies = Tallies(3)
    for number in (6, 7, 8):
        for block in tallies.blocks(number):
            block[:] = memoryview(bytearray(b"\1" * 8 * counters.SLOTS)).cast("Q")
    tallies.clear(7)
    assert sum(tallies.total(7)) == 0
    for number in (6, 8):
        assert min(tallies.total(number)) > 0


def test_another_process_counts_in_the_same_memory() -> None:
    with memory(3) as fd, another_process(fd) as other:
        tallies = Tallies(3, fd)
        tallies.block(1, 0)[0] = 100
        add(other, 1, 1, 0, 10)
        add(other, 1, 2, 0, 1)
        add(other, BLOCKS - 1, 2, counters.SLOTS - 1, 2**63)
        assert tallies.total(1)[0] == 111
        assert [block[0] for block in tallies.blocks(1)] == [100, 10, 1]
        assert tallies.total(BLOCKS - 1)[counters.SLOTS - 1] == 2**63
        tallies.clear(1)
        add(other, 1, 1, 0, 7)
        assert tallies.total(1)[0] == 7


def test_what_another_process_counted_outlives_it_and_the_descriptor() -> None:
    before = open_descriptors().keys()
    with memory(3) as fd:
        tallies = Tallies(3, fd)
        with another_process(fd) as other:
            add(other, 3, 1, 2, 5)
        assert tallies.total(3)[2] == 5
    assert len(open_descriptors().keys() - before) == 1, "mmap's own"
    tallies.block(3, 0)[2] = 1
    assert tallies.total(3)[2] == 6
    del tallies
    assert open_descriptors().keys() == before


def test_what_is_not_shared_takes_no_descriptor() -> None:
    before = open_descriptors()
    tallies = Tallies(2)
    assert open_descriptors() == before
    assert tallies.rows == 2


def test_nobody_can_make_the_memory_shorter_or_longer() -> None:
    with memory(2) as fd:
        tallies = Tallies(2, fd)
        # As who has it from us, and as who opens it anew.
        other = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            for its in (fd, other):
                for length in (0, size - 1, size + 1):
                    with pytest.raises(PermissionError):
                        os.ftruncate(its, length)
                with pytest.raises(PermissionError):
                    # Nor forbid what we do with it.
                    fcntl.fcntl(its, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        finally:
            os.close(other)
        tallies.block(BLOCKS - 1, 1)[counters.SLOTS - 1] = 1
        assert sum(tallies.total(BLOCKS - 1)) == 1


def test_memory_that_is_not_to_be_had_leaves_no_descriptor() -> None:
    before, (soft, hard) = open_descriptors(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"\[Errno") as raised:
            shareable(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert open_descriptors() == before


def test_a_page_that_nobody_has_written_to_takes_no_memory() -> None:
    with memory(4) as fd:
        tallies = Tallies(4, fd)
        assert os.fstat(fd).st_blocks == 0
        tallies.block(1, 2)[0] = 1
        assert 0 < os.fstat(fd).st_blocks * 512 <= 2 << 20


def test_what_was_counted_stays_readable_when_shared_memory_is_let_go_of() -> None:
    before = open_descriptors()
    with memory(3) as fd:
        tallies = Tallies(3, fd)
        for number, row in itertools.product(range(3), range(3)):
            tallies.block(number, row)[counters.SLOTS - 1] = 10 * number + row
        tallies.close(3)
        tallies.block(1, 1)[0] += 1
    assert open_descriptors() == before
    for number, row in itertools.product(range(3), range(3)):
        assert tallies.block(number, row)[counters.SLOTS - 1] == 10 * number + row
    assert tallies.total(1)[0] == 1
    assert len(tallies.block(2, 2)) == counters.SLOTS


def test_what_is_not_shared_is_kept_whole() -> None:
    tallies = Tallies(2)
    tallies.block(9, 1)[0] = 1
    tallies.close(1)
    assert tallies.total(9)[0] == 1
