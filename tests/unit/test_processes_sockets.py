"""Listening sockets and counters that worker processes share."""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import ExitStack
from dataclasses import replace

import pytest
import trio
import trio.testing

from portproxy.model import Endpoint, Family
from portproxy.net.channel import Channel
from portproxy.net.listeners import listen
from portproxy.tallies import BLOCKS
from portproxy.wire import worker_frames as wire
from portproxy.workers.member import Member
from portproxy.workers.processes import LOOK, OBEY, Processes
from tests.relay import rig
from tests.relay.rig import (
    beside,
    dial,
    dial_endpoint,
    echo,
    free_port,
    make_rule,
    relaying,
    reset,
    round_trip,
    to,
    upstream,
)
from tests.unit.crew import crew, descriptors, stopped, until

# Where a test takes it, trio's clock stands still but where it is moved.


async def test_a_worker_without_descriptors_is_offered_what_it_lacks_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    with upstream() as service:
        rules = [to(service, name=str(number)) for number in range(3)]
        async with beside(lambda: echo(service)), crew() as made:
            first, second = made.processes.pids
            with descriptors(first, 3):
                for number, rule in enumerate(rules, 1):
                    assert await made.serve(rule, number) == {}
                assert made.processes._members[1].lacking == {1, 2, 3}
                mock_clock.jump(LOOK)
                await trio.testing.wait_all_tasks_blocked()
                await made.obeyed(1)
                with stopped(second):
                    waiting = [dial(rule) for rule in rules]
                    assert made.connections(1) == [0, 0]
                for client in waiting:
                    with client:
                        await round_trip(client)
                assert made.connections(1) == [0, 1]
                await until(lambda: made.processes._members[1].lacking == {1, 2, 3})
            mock_clock.jump(LOOK)
            await until(lambda: not made.processes._members[1].lacking)
            await made.obeyed(1)
            with stopped(second):
                for number, rule in enumerate(rules, 1):
                    with dial(rule) as client:
                        # Its pause for want of descriptors is by its own clock.
                        await round_trip(client)
                    assert made.connections(number) == [1, 1]


async def test_a_worker_that_dies_while_it_is_offered_a_socket_leaves_it_to_the_other() -> None:
    rule = make_rule()
    async with crew() as made:
        first, second = made.processes.pids
        await made.processes.tell(wire.Run(((1, rule),)))
        sock = listen(Family.V4, rule.bind_address, rule)

        async def offer() -> None:
            assert await made.processes.serve((), [(wire.Listening(1, 1), sock)]) == {}

        async with trio.open_nursery() as nursery:
            with stopped(first):
                os.kill(second, signal.SIGSTOP)
                nursery.start_soon(offer)
                await until(lambda: made.processes._members[2]._asked)
                os.kill(second, signal.SIGKILL)
                await until(lambda: made.heard("a worker died"))
        await until(lambda: len(made.heard("a worker relays")) == 3)
        for pid in made.processes.pids:
            assert f"socket:[{os.fstat(sock.fileno()).st_ino}]" in held_by(pid)


async def test_a_socket_that_no_worker_could_take_is_closed_and_said() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(lambda: echo(service)), crew() as made:
            first, second = made.processes.pids
            with descriptors(first, 3), descriptors(second, 3):
                assert await made.serve(rule, 1) == {1: errno.EMFILE}
                with pytest.raises(ConnectionRefusedError):
                    dial(rule)
            assert await made.serve(rule, 2) == {}
            with dial(rule) as client:
                await round_trip(client)


async def test_a_rule_that_no_worker_can_listen_for_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "workers", 2)
    rule = make_rule(name="web")
    async with relaying() as relay:
        assert isinstance(relay.supervisor.crew, Processes)
        first, second = relay.supervisor.crew.pids
        with descriptors(first, 3):
            await relay.supervisor.reload(relay.config(rule))
            assert relay.supervisor.errors == {}
            await relay.supervisor.reload(relay.config())
            with descriptors(second, 3):
                await relay.supervisor.reload(relay.config(rule))
                where = f"cannot listen on 127.0.0.1:{rule.listen.port}"
                assert relay.supervisor.errors == {"web": f"{where}: Too many open files"}
        await relay.said("a rule listens again")
        dial(rule).close()


async def test_what_is_queued_is_accepted_before_a_port_is_given_up() -> None:
    with upstream(backlog=4096) as service:
        rule = to(service)
        async with beside(lambda: echo(service)), crew() as made:
            await made.serve(rule, 1)
            first, second = made.processes.pids
            with ExitStack() as clients:
                async with trio.open_nursery() as nursery:
                    with stopped(first, second):
                        queued = [clients.enter_context(dial(rule)) for _ in range(200)]
                        nursery.start_soon(made.processes.release, [1])
                        await until(lambda: made.processes._members[2]._asked)
                        os.kill(first, signal.SIGCONT)
                        await made.obeyed(1)
                        # The other has it yet.
                        assert made.connections(1) == [200, 0]
                        queued += [clients.enter_context(dial(rule)) for _ in range(50)]
                assert made.connections(1) == [200, 50]
                with pytest.raises(ConnectionRefusedError):
                    dial(rule)
                for client in queued:
                    await round_trip(client)


async def test_what_is_queued_is_accepted_by_a_worker_that_has_the_socket() -> None:
    with upstream(backlog=4096) as service:
        rule = to(service)
        async with beside(lambda: echo(service)), crew() as made:
            first, second = made.processes.pids
            with descriptors(first, 3):
                assert await made.serve(rule, 1) == {}
            assert made.processes._members[1].lacking == {1}
            with ExitStack() as clients:
                async with trio.open_nursery() as nursery:
                    with stopped(second):
                        queued = [clients.enter_context(dial(rule)) for _ in range(200)]
                        nursery.start_soon(made.processes.release, [1])
                        await until(lambda: made.processes._members[2]._asked)
                for client in queued:
                    await round_trip(client)
                assert made.connections(1) == [0, 200]
                with pytest.raises(ConnectionRefusedError):
                    dial(rule)
            assert made.processes._members[1].lacking == set()


@pytest.mark.parametrize("stuck", [1, 2])
async def test_what_a_stuck_worker_held_up_is_handed_to_one_that_lives(
    stuck: int, mock_clock: trio.testing.MockClock
) -> None:
    """The other had no descriptor for the socket, and has some by now; what is queued takes two messages."""
    with upstream(backlog=4096) as service:
        rule = to(service)
        number = wire.DESCRIPTORS + 20
        async with beside(lambda: echo(service)), crew() as made:
            pids = made.processes.pids
            other = 3 - stuck
            with descriptors(pids[other - 1], 3):
                await made.serve(rule, 1)
            with ExitStack() as clients, stopped(pids[stuck - 1]):
                queued = [clients.enter_context(dial(rule)) for _ in range(number)]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(made.processes.release, [1])
                    await until(lambda: made.processes._members[stuck]._asked)
                    await made.obeyed(other)
                    mock_clock.jump(OBEY)
                (killed,) = made.heard("a worker does not answer")
                assert killed.fields["pid"] == pids[stuck - 1]
                with pytest.raises(ConnectionRefusedError):
                    dial(rule)
                for client in queued:
                    await round_trip(client)
            assert made.connections(1)[other - 1] == number


async def test_a_worker_adopts_connections_for_the_rule_that_they_were_made_to() -> None:
    with upstream() as service:
        wildcard = to(service, name="wildcard", listen=Endpoint("*", free_port()))
        specific = replace(wildcard, name="specific", listen=Endpoint("127.0.0.2", wildcard.listen.port))
        async with beside(lambda: echo(service)), crew(workers=1) as made:
            made.numbers |= {1, 2}
            await made.processes.tell(wire.Run(((1, wildcard), (2, specific))))
            sock = listen(Family.V4, "0.0.0.0", wildcard)
            on = wire.Listening(1, 1, (((socket.inet_aton("127.0.0.2"), 0), 2),))
            with descriptors(made.processes.pids[0], 3), stopped(made.processes.pids[0]):
                made.processes._state.listening[1] = (on, sock)
                clients = [dial_endpoint(f"127.0.0.{n}", wildcard.listen.port) for n in (1, 2, 3, 2)]
                gone = dial_endpoint("127.0.0.2", wildcard.listen.port)
                reset(gone)
            await made.processes.release([1])
            for client in clients:
                with client:
                    await round_trip(client)
            assert [made.connections(number) for number in (1, 2)] == [[2], [2]]


async def test_what_a_worker_says_of_sockets_is_checked() -> None:
    """It may be of none that it was offered, and of an errno that there is not."""
    rule = make_rule()
    async with crew() as made:
        with listen(Family.V4, rule.bind_address, rule) as sock:
            made.processes._state.listening[1] = (wire.Listening(1, 1), sock)
            ours, theirs = socket.socketpair()
            with theirs:
                liar = Member(
                    9, made.processes._members[1].process, Channel(ours, 100, takes_descriptors=False)
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(liar.run, made.idle.append)
                    theirs.send(wire.frame(wire.encode_reply(wire.Served([1, 7, -1], 10**9))))
                    offered: dict[int, int] = {}

                    async def offer() -> None:
                        offered.update(await made.processes._offer({9: liar}, [1]))
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(offer)
                assert offered == {1: errno.EIO}
                assert liar.lacking == {1}
                liar._channel.close()
            del made.processes._state.listening[1]


async def test_as_many_listening_sockets_as_take_several_messages() -> None:
    number = wire.DESCRIPTORS + 10
    rules = [make_rule(name=str(place)) for place in range(number)]
    async with crew() as made:
        await made.processes.tell(wire.Run(tuple(enumerate(rules, 1))))
        new = [
            (wire.Listening(place, place), listen(Family.V4, rule.bind_address, rule))
            for place, rule in enumerate(rules, 1)
        ]
        assert await made.processes.serve((), new) == {}
        inodes = {f"socket:[{os.fstat(sock.fileno()).st_ino}]" for _, sock in new}
        assert all(inodes <= held_by(pid) for pid in made.processes.pids)
        os.kill(made.processes.pids[0], signal.SIGKILL)
        await until(lambda: len(made.heard("a worker relays")) == 3)
        assert inodes <= held_by(made.processes.pids[0])


def held_by(pid: int) -> set[str]:
    """What a process has descriptors of."""
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}


async def test_a_worker_says_when_a_retired_rule_s_last_session_there_has_ended() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(lambda: echo(service)), crew() as made:
            await made.serve(rule, 1)
            with stopped(made.processes.pids[1]):
                client = dial(rule)
                await round_trip(client)
            await made.processes.release([1])
            await made.processes.tell(wire.Retire((1,)))
            assert made.idle == []
            client.close()
            await until(lambda: made.idle == [1])


async def test_a_worker_without_descriptors_survives_a_reload_to_thousands_of_rules() -> None:
    with upstream() as service:
        rule = to(service)
        many = tuple((number, replace(rule, name=str(number))) for number in range(1, 6001))
        async with beside(lambda: echo(service)), crew() as made:
            first, second = made.processes.pids
            with descriptors(first, 3):
                await made.processes.tell(wire.Run(many))
            assert await made.serve(rule, 6000) == {}
            for other in (first, second):
                with stopped(other), dial(rule) as client:
                    await round_trip(client)
            assert made.connections(6000) == [1, 1]
            assert made.processes.pids == [first, second]
            assert made.heard("a worker died") == []


async def test_who_comes_later_counts_where_the_others_do() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(lambda: echo(service)), crew() as made:
            await made.serve(rule, BLOCKS - 1)
            os.kill(made.processes.pids[0], signal.SIGKILL)
            await until(lambda: len(made.heard("a worker relays")) == 3)
            with stopped(made.processes.pids[1]), dial(rule) as client:
                await round_trip(client)
            assert made.connections(BLOCKS - 1) == [1, 0]
