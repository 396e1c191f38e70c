"""Names off the event loop, on a virtual clock: what is asked, when, and for how long it is believed."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from portproxy.model import Family
from portproxy.net.resolver import ResolveError, Resolver, lookup


class Names:
    """A name server whose answers the test holds back, as long as ``gate`` is not set."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...]] = {}
        self.asked: Counter[str] = Counter()
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def lookup(self, name: str, family: Family) -> tuple[str, ...]:
        self.asked[name] += 1
        self.arrived.release()
        self.gate.wait()
        if name not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.answers[name]

    async def asked_for(self, times: int) -> None:
        """Wait until ``times`` more look-ups have begun."""
        for _ in range(times):
            await trio.to_thread.run_sync(self.arrived.acquire)


@pytest.fixture
def names() -> Names:
    return Names()


async def failure(resolver: Resolver, name: str, within: float = 5.0) -> str:
    with pytest.raises(ResolveError) as error:
        await resolver.resolve(name, Family.V4, within)
    return str(error.value)


async def test_an_answer_is_kept_for_five_seconds(
    names: Names, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.answers["a"] = ("192.0.2.1", "192.0.2.2")
    assert resolver.fresh("a", Family.V4) is None
    for _ in range(2):
        assert await resolver.resolve("a", Family.V4, 5.0) == names.answers["a"]
        assert resolver.fresh("a", Family.V4) == names.answers["a"]
    mock_clock.jump(4.99)
    assert resolver.fresh("a", Family.V4) == names.answers["a"]
    assert names.asked == {"a": 1}
    assert resolver.fresh("a", Family.V6) is None
    mock_clock.jump(0.01)
    assert resolver.fresh("a", Family.V4) is None
    assert resolver.last("a", Family.V4) == names.answers["a"]
    assert resolver.last("a", Family.V6) == resolver.last("b", Family.V4) == ()
    names.answers["a"] = ("192.0.2.3",)
    assert await resolver.resolve("a", Family.V4, 5.0) == ("192.0.2.3",)
    assert names.asked == {"a": 2}


async def test_a_failure_is_kept_for_one_second(
    names: Names, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    resolver = Resolver(nursery, names.lookup)
    for asked in (1, 2):
        assert await failure(resolver, "a") == "a: Name or service not known"
        mock_clock.jump(0.99)
        with pytest.raises(ResolveError):
            resolver.fresh("a", Family.V4)
        mock_clock.jump(0.01)
        assert resolver.fresh("a", Family.V4) is None
        assert names.asked == {"a": asked}


async def test_an_empty_answer_and_a_name_that_is_none(names: Names, nursery: trio.Nursery) -> None:
    names.answers["a"] = ()
    assert await failure(Resolver(nursery, names.lookup), "a") == "a: no address of a host in this family"
    assert "not a host name" in await failure(Resolver(nursery), "a" * 64 + ".example")


@pytest.mark.parametrize(
    ("error", "why"),
    [(RuntimeError("can't start new thread"), "can't start new thread"), (MemoryError(), "out of memory")],
    ids=["thread", "memory"],
)
async def test_without_a_thread_a_look_up_fails(
    nursery: trio.Nursery, mock_clock: MockClock, error: Exception, why: str
) -> None:
    answers: list[Exception | tuple[str, ...]] = [error, ("192.0.2.1",)]

    def lookup(name: str, family: Family) -> tuple[str, ...]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    resolver = Resolver(nursery, lookup)
    assert await failure(resolver, "a") == f"a: no thread to look it up ({why})"
    mock_clock.jump(1)
    assert await resolver.resolve("a", Family.V4, 5.0) == ("192.0.2.1",)


async def test_answers_that_name_no_host_are_left_out(names: Names, nursery: trio.Nursery) -> None:
    names.answers |= {"blocked": ("0.0.0.0",), "mixed": ("::", "::ffff:192.0.2.1", "2001:db8::1")}
    resolver = Resolver(nursery, names.lookup)
    assert await failure(resolver, "blocked") == "blocked: no address of a host in this family"
    assert await resolver.resolve("mixed", Family.V6, 5.0) == ("2001:db8::1",)


async def test_the_last_good_answer_serves_for_a_minute_of_failure(
    names: Names, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.answers["a"] = ("192.0.2.1",)
    await resolver.resolve("a", Family.V4, 5.0)
    del names.answers["a"]
    mock_clock.jump(3600)
    for _ in range(60):
        assert await resolver.resolve("a", Family.V4, 5.0) == ("192.0.2.1",)
        mock_clock.jump(1)
    assert await failure(resolver, "a") == "a: Name or service not known"
    assert names.asked == {"a": 62}
    names.answers["a"] = ("192.0.2.2",)
    mock_clock.jump(1)
    assert await resolver.resolve("a", Family.V4, 5.0) == ("192.0.2.2",)


async def asking(
    nursery: trio.Nursery, resolver: Resolver, name: str, within: float
) -> Callable[[], tuple[str, ...] | str | None]:
    """Ask in the background; the function returned tells the answer or the error, None before."""
    results: list[tuple[str, ...] | str] = []

    async def ask() -> None:
        try:
            results.append(await resolver.resolve(name, Family.V4, within))
        except ResolveError as error:
            results.append(str(error))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    return lambda: results[0] if results else None


async def test_one_look_up_a_name_is_in_flight(names: Names, nursery: trio.Nursery) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.answers["a"] = ("192.0.2.1",)
    names.gate.clear()
    async with trio.open_nursery() as askers:
        results = [await asking(askers, resolver, "a", 5.0) for _ in range(3)]
        names.gate.set()
    assert [result() for result in results] == [("192.0.2.1",)] * 3
    assert names.asked == {"a": 1}


async def test_a_look_up_that_nobody_waits_for_stays_the_only_one(
    names: Names, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.answers["a"] = ("192.0.2.1",)
    names.gate.clear()
    async with trio.open_nursery() as askers:
        patient = await asking(askers, resolver, "a", 9.0)
        for _ in range(3):
            hasty = await asking(askers, resolver, "a", 0.25)
            mock_clock.jump(0.25)
            await wait_all_tasks_blocked()
            assert hasty() == "a: no answer within 0.25 s"
            mock_clock.jump(1)
        assert patient() is None
        names.gate.set()
    assert patient() == ("192.0.2.1",)
    assert names.asked == {"a": 1}


async def test_a_look_up_is_abandoned_at_its_deadline(
    names: Names, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.gate.clear()
    async with trio.open_nursery() as askers:
        result = await asking(askers, resolver, "a", 2.0)
        mock_clock.jump(1.99)
        await wait_all_tasks_blocked()
        assert result() is None
        mock_clock.jump(0.01)
    assert result() == "a: no answer within 2 s"
    names.gate.set()


async def test_a_name_server_that_is_silent_leaves_time_for_the_last_good_answer(
    names: Names, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.answers["a"] = ("192.0.2.1",)
    await resolver.resolve("a", Family.V4, 5.0)
    mock_clock.jump(5)
    names.gate.clear()
    async with trio.open_nursery() as askers:
        result = await asking(askers, resolver, "a", 2.0)
        mock_clock.jump(1)
    assert result() == ("192.0.2.1",)
    names.gate.set()


async def test_eight_threads_at_most(names: Names, nursery: trio.Nursery, mock_clock: MockClock) -> None:
    resolver = Resolver(nursery, names.lookup)
    names.answers["late"] = ("192.0.2.1",)
    names.gate.clear()
    async with trio.open_nursery() as askers:
        for number in range(10):
            await asking(askers, resolver, f"silent {number}", 2.0)
        await names.asked_for(8)
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        # Abandoned, but still in getaddrinfo(3): the next one has to wait for a thread.
        result = await asking(askers, resolver, "late", 2.0)
        assert names.asked.total() == 8
        names.gate.set()
    assert result() == ("192.0.2.1",)


def test_lookup_asks_the_system() -> None:
    assert lookup("127.0.0.1", Family.V4) == ("127.0.0.1",)
    assert lookup("fe80::1%lo", Family.V6) == ("fe80::1%lo",)
    with pytest.raises(socket.gaierror):
        lookup("127.0.0.1", Family.V6)
