"""``portproxy health``: one line why, whatever answers or does not."""

from __future__ import annotations

import signal
import socket
import sys

from tests.cli.shell import PORTPROXY, Shell, free_port, stopped


def test_health_of_a_relay(portproxy: Shell) -> None:
    status = f"127.0.0.1:{free_port()}"
    with portproxy.serving("--rule", f"v6tov4 {free_port()} connectport=1", "--status", status):
        assert portproxy("health") == (0, "1 rule listening, 0 sessions\n", [])
        assert portproxy("health", "--status", status) == (0, "ready\n", [])
        over_status = portproxy("health", environ={"PORTPROXY_CONTROL": "off", "PORTPROXY_STATUS": status})
        assert over_status == (0, "ready\n", [])


def test_health_without_a_relay(portproxy: Shell) -> None:
    line = (
        f"portproxy: no relay answers at {portproxy.control}: No such file or directory; "
        "is portproxy running, or does --control name another socket?"
    )
    assert portproxy("health") == (1, "", [line])
    status = f"127.0.0.1:{free_port()}"
    line = (
        f"portproxy: no relay answers at {status}: Connection refused; "
        "is portproxy running with --status, or does --status name another address?"
    )
    assert portproxy("health", "--status", status) == (1, "", [line])


def test_health_asks_whatever_became_of_the_file(portproxy: Shell) -> None:
    file = portproxy.directory / "portproxy.toml"
    good = (
        f'[server]\ncontrol = "{portproxy.control}"\n[[rule]]\ntype = "v6tov4"\nlistenport = {free_port()}\n'
    )
    file.write_text(good + "connectport = 1\n")
    healthy = "1 rule listening, 0 sessions\n"
    nothing = {"PORTPROXY_CONTROL": ""}
    with portproxy.serving("-c", str(file), environ=nothing):
        assert portproxy("health", "-c", str(file), environ=nothing) == (0, healthy, [])
        file.write_text(good + "connectport = 0\n")
        assert portproxy("health", "-c", str(file), environ=nothing) == (0, healthy, [])
        file.write_text(good.replace("[server]", '[server]\nlog = "loud"'))
        assert portproxy("health", "-c", str(file), environ=nothing) == (0, healthy, [])
        file.unlink()
        assert portproxy("health", "-c", str(file)) == (0, healthy, [])


def test_health_imports_neither_trio_nor_rich(portproxy: Shell) -> None:
    code = (
        "import atexit, sys; sys.argv = ['portproxy', 'health']\n"
        "atexit.register(lambda: print(*{'trio', 'rich'} & sys.modules.keys()))\n"
        "from portproxy.cli import main; main()"
    )
    with portproxy.serving("--rule", f"v6tov4 {free_port()} connectport=1"):
        assert portproxy.run([sys.executable, "-c", code]) == (0, "1 rule listening, 0 sessions\n\n", [])


def test_ctrl_c_while_waiting_for_an_answer(portproxy: Shell) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(portproxy.control))
        silent.listen()
        with portproxy.started(PORTPROXY, "health") as process, silent.accept()[0]:
            ended = stopped(process, signal.SIGINT)
    assert (ended.code, ended.output, ended.errors) == (-signal.SIGINT, "", "")
