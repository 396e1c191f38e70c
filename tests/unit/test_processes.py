"""Workers in processes of their own: what becomes of them, and what they are told."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from portproxy import counters
from portproxy.errors import StartError
from portproxy.log import Level
from portproxy.tallies import OWN
from portproxy.wire import worker_frames as wire
from portproxy.workers import processes
from portproxy.workers.processes import OBEY, SETTLED
from tests.relay.rig import beside, dial, echo, make_rule, round_trip, to, upstream
from tests.relay.served import SERVER, serving, start_failure, table
from tests.unit.crew import Crew, crew, stopped, until

# trio's clock stands still in these tests but where they move it, so that no timeout comes by itself.


async def test_who_dies_at_once_again_and_again_is_replaced_ever_later(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("LOOK", "START"):
        monkeypatch.setattr(processes, patience, 1e6)
    monkeypatch.setattr(processes, "RESTART_LAST", 2.0)
    async with crew(workers=1) as made:

        async def delay_after_a_death() -> float:
            """Kill the worker that has just come, and bring its successor about."""
            deaths, births = len(made.heard("a worker died")), len(made.heard("a worker relays"))
            os.kill(made.processes.pids[0], signal.SIGKILL)
            await until(lambda: len(made.heard("a worker died")) > deaths)
            delay = trio.lowlevel.current_statistics().seconds_to_next_deadline
            mock_clock.jump(delay if delay < 100 else 0)
            await until(lambda: len(made.heard("a worker relays")) > births)
            return delay if delay < 100 else 0

        assert [await delay_after_a_death() for _ in range(5)] == [0, 0.5, 1, 2, 2]
        mock_clock.jump(SETTLED)
        assert [await delay_after_a_death() for _ in range(3)] == [0, 0.5, 1]
        mock_clock.jump(SETTLED - 1)
        assert await delay_after_a_death() == 2
        assert made.processes.deaths == 9
        said = [event.fields["again"] for event in made.heard("a worker died")]
        assert said == ["0s", "0.5s", "1s", "2s", "2s", "0s", "0.5s", "1s", "2s"]
        assert len({event.fields["pid"] for event in made.heard("a worker relays")}) == 10


async def test_a_worker_that_does_not_obey_is_killed_and_the_change_goes_on(
    mock_clock: trio.testing.MockClock,
) -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(lambda: echo(service)), crew() as made:
            first, second = made.processes.pids
            os.kill(first, signal.SIGSTOP)
            done = trio.Event()

            async def change() -> None:
                assert await made.serve(rule, 1) == {}
                done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(change)
                await until(lambda: made.processes._members[1]._asked)
                await made.obeyed(2)
                mock_clock.jump(OBEY - 1)
                await trio.testing.wait_all_tasks_blocked()
                assert not made.heard("a worker does not answer")
                mock_clock.jump(1)
                await done.wait()
            (killed,) = made.heard("a worker does not answer")
            assert (killed.level, killed.fields) == (Level.ERROR, {"worker": 1, "pid": first})
            await until(lambda: len(made.heard("a worker relays")) == 3)
            (died,) = made.heard("a worker died")
            fate = "killed by SIGKILL: no answer for 10 s"
            assert (died.fields["pid"], died.fields["fate"]) == (first, fate)
            assert made.processes.pids[1] == second
            # The successor knows of the change that it was not there for.
            with stopped(second), dial(rule) as client:
                await round_trip(client)
            assert made.connections(1) == [1, 0]


async def test_a_stuck_worker_holds_up_no_question_for_long(mock_clock: trio.testing.MockClock) -> None:
    async with crew() as made:
        answers: list[wire.Reply] = []

        async def ask() -> None:
            answers.extend(await made.processes.ask(wire.Publish()))

        with stopped(made.processes.pids[0]):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: made.processes._members[1]._asked)
                await made.obeyed(2)
                mock_clock.jump(processes.ANSWER)
        assert answers == [wire.Done()]
        # Its answer comes late, and is nobody else's.
        await made.obeyed(1)
        assert await made.processes.ask(wire.Sessions(None, 0.0)) == [wire.Found([])] * 2
        assert made.heard("a worker died") == []


async def test_a_stuck_worker_is_found_out_by_questions_alone(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOOK", 1e6)
    async with crew() as made:
        first, second = made.processes.pids

        async def ask(waits: float) -> list[wire.Reply]:
            """What comes when so many seconds have passed."""
            answers: list[wire.Reply] = []

            async def asking() -> None:
                answers.extend(await made.processes.ask(wire.Sessions(None, 0.0)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(asking)
                await trio.testing.wait_all_tasks_blocked()
                await made.obeyed(2)
                mock_clock.jump(waits)
            return answers

        with stopped(first):
            assert await ask(processes.ANSWER) == [wire.Found([])]
            # Whoever asks now does not wait for it.
            assert await ask(0) == [wire.Found([])]
            mock_clock.jump(OBEY - processes.ANSWER)
            assert await ask(0) == [wire.Found([])]
            assert not made.heard("a worker does not answer")
            mock_clock.jump(0.001)
            assert await ask(0) == [wire.Found([])]
        await until(lambda: len(made.heard("a worker relays")) == 3)
        (killed,) = made.heard("a worker does not answer")
        assert (killed.level, killed.fields) == (Level.ERROR, {"worker": 1, "pid": first})
        (died,) = made.heard("a worker died")
        assert died.fields["fate"] == "killed by SIGKILL: no answer for 10 s"
        assert made.processes.pids[1] == second
        assert await ask(0) == [wire.Found([])] * 2


@pytest.mark.parametrize(
    ("executable", "why"),
    [
        ("/nonexistent/python", "cannot be started: No such file or directory"),
        ("/bin/false", "ended while it started: exit code 1"),
    ],
)
async def test_a_first_start_that_fails_is_a_start_error(
    executable: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    made = Crew(2)
    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            await nursery.start(made.processes.run)
    assert made.events == [], "the error says it"
    matching, others = raised.value.split(StartError)
    assert matching
    assert others is None
    error: BaseException = matching
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StartError)
    assert error.lines in [(f"worker {row} {why}",) for row in (1, 2)]


async def test_a_first_start_that_fails_is_one_line_to_who_starts_it(tmp_path: Path) -> None:
    path = tmp_path / "portproxy.toml"
    path.write_text(table(make_rule()))
    script = "import sys; from portproxy.cli import main; sys.executable = '/bin/false'; main()"
    words = [sys.executable, "-c", script, "serve", "--control", "off", "--workers", "2", "-c", str(path)]
    code, said = await start_failure(words)
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("portproxy: ")]
    assert line in [f"portproxy: worker {row} ended while it started: exit code 1" for row in (1, 2)]
    assert "Traceback" not in said


async def test_a_clean_stop_is_no_death_of_the_supervisor(tmp_path: Path) -> None:
    with upstream() as service:
        rule = to(service, name="web")
        for number in (signal.SIGTERM, signal.SIGINT):
            path = tmp_path / "portproxy.toml"
            arguments = ["--workers", "2"]
            async with serving(path, SERVER, table(rule), arguments=arguments) as served:
                served.signal(number)
                assert await served.process.wait() == 0
                await served.said("stopped")
                assert [line["event"] for line in served.events if line["level"] != "info"] == []


async def test_a_start_that_fails_is_no_death_of_the_supervisor(tmp_path: Path) -> None:
    with upstream() as service:
        rule = make_rule(name="web")
        port = service.getsockname()[1]
        path = tmp_path / "portproxy.toml"
        path.write_text(table(rule, listenport=port))
        words = [sys.executable, "-m", "portproxy", "serve", "--control", "off", "--workers", "2"]
        code, said = await start_failure([*words, "-c", str(path)])
        assert code == 1
        assert "the port is in use" in said
        assert "the supervisor died" not in said


async def test_without_a_supervisor_what_is_queued_is_served_and_the_port_is_free_again(
    tmp_path: Path,
) -> None:
    with upstream(backlog=4096) as service:
        rule = to(service, name="web")
        path = tmp_path / "portproxy.toml"
        async with (
            beside(lambda: echo(service)),
            serving(path, SERVER, table(rule), arguments=["--workers", "2"]) as served,
        ):
            pids = [line["pid"] for line in await served.said("a worker relays", 2)]
            with ExitStack() as clients:
                with stopped(*pids):
                    queued = [clients.enter_context(dial(rule)) for _ in range(100)]
                    served.process.kill()
                    await served.process.wait()
                for client in queued:
                    await round_trip(client)
                await served.said("the supervisor died", 2)
                await until(lambda: binds(rule.listen.port))
                for client in queued:
                    await round_trip(client)
            # Both ends of the pipes that they write to are closed by then, and so are they.
            await until(lambda: not any(map(runs, pids)))
            assert [record["reason"] for record in served.records] == ["finished"] * 100


def binds(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
    return True


def runs(pid: int) -> bool:
    """Whether it is there; a zombie, whom nobody waits for, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_ending_them_leaves_what_was_counted() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(lambda: echo(service)):
            async with crew() as made:
                await made.serve(rule, 1)
                with dial(rule) as client:
                    await round_trip(client)
                    await until(lambda: sum(made.connections(1)) == 1)
            total = made.tallies.total(1)
            assert made.tallies.block(OWN, 0)[counters.STOPPING] == 1
            assert total[counters.CONNECTIONS] == sum(total[counters.REFUSED :]) == 1
            assert total[counters.ACTIVE] == 0
            assert made.processes.missing == 2
