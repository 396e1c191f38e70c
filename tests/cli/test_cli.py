"""What a user meets: mistakes in one line each, exit codes, streams that are closed, signals."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest

from tests.cli.shell import PORTPROXY, Shell, free_port, stopped

RULE = "v6tov4 listenport=8080 connectport=8000 name=web"

TRY = "Try 'portproxy {} --help'."
STATUS = 'an address and a port, like 127.0.0.1:9180 or [::1]:9180, or "off"'
NO_RULES = (
    "no rules: give a file with -c, a rule with --rule or PORTPROXY_RULES, "
    "as in --rule 'v6tov4 listenport=8080 connectport=80'"
)
PORT = "a port is a number from 1 to 65535 or a service name"

MISTAKES: dict[str, tuple[list[str], dict[str, str], str, list[str]]] = {
    "unknown command": (
        ["chekc"],
        {},
        "",
        ["No such command 'chekc'. Did you mean 'check'? Try 'portproxy --help'."],
    ),
    "an argument of two lines": (
        ["check", "a\nb"],
        {},
        "",
        [r"Got unexpected extra argument (a\nb) " + TRY],
    ),
    "unknown option": (["serve", "--rul"], {}, "", ["No such option '--rul'. Did you mean '--rule'? " + TRY]),
    "an argument too many": (
        ["check", "file"],
        {},
        "",
        ["Got unexpected extra argument (file) " + TRY],
    ),
    "an option without its value": (
        ["check", "--status"],
        {},
        "",
        ["Option '--status' requires an argument."],
    ),
    "no rules": (["check"], {}, "", [NO_RULES]),
    "no rules to serve": (["serve"], {}, "", [NO_RULES]),
    "empty variables": (["serve"], {"PORTPROXY_RULES": "", "PORTPROXY_STATUS": ""}, "", [NO_RULES]),
    "an empty file name": (["check", "-c", ""], {}, "", ["-c is empty; name a file, or leave it out"]),
    "an empty file name to ask": (
        ["health", "-c", ""],
        {},
        "",
        ["-c is empty; name a file, or leave it out"],
    ),
    "no such file": (
        ["serve", "-c", "none.toml"],
        {},
        "",
        ["none.toml: cannot be read: No such file or directory"],
    ),
    "a directory": (["check", "-c", "."], {}, "", [".: cannot be read: Is a directory"]),
    "a file that is no TOML": (
        ["check", "-c", "portproxy.toml"],
        {},
        "[server\n",
        [
            "portproxy.toml: line 1, column 8: [server: Expected ']' at the end of a table declaration",
        ],
    ),
    "status": (
        ["serve", "--rule", RULE, "--status", "9180"],
        {},
        "",
        [f'--status = "9180": {STATUS}'],
    ),
    "status in the environment": (
        ["serve", "--rule", RULE],
        {"PORTPROXY_STATUS": "localhost"},
        "",
        [f'PORTPROXY_STATUS = "localhost": {STATUS}'],
    ),
    "control": (
        ["check", "--rule", RULE, "--control", "here.sock"],
        {},
        "",
        ['--control = "here.sock": an absolute path of at most 99 bytes, or "off"'],
    ),
    "a rule": (["check", "--rule", "v6tov4 70000"], {}, "", [f'--rule 1: listenport = "70000": {PORT}']),
    "a rule in the environment": (
        ["check"],
        {"PORTPROXY_RULES": f"{RULE}; v5tov4 81"},
        "",
        ['PORTPROXY_RULES: rule 2: type = "v5tov4": did you mean v6tov4?'],
    ),
    "everything at once": (
        ["check", "-c", "portproxy.toml", "--rule", "v6tov4 listenport=eighty!", "--status", "x"],
        {},
        '[server]\nlog = "loud"\n[[rule]]\ntype = "v6tov4"\nlistenport = 70000\nmaxcon = 1\n',
        [
            'portproxy.toml: [server]: log = "loud": known are console, json',
            f'--status = "x": {STATUS}',
            f"portproxy.toml: rule 1: listenport = 70000: {PORT}",
            "portproxy.toml: rule 1: maxcon = 1: unknown key here; did you mean maxconn?",
            f'--rule 1: listenport = "eighty!": {PORT}',
        ],
    ),
    "health over a status that is off": (
        ["health", "--status", "off"],
        {},
        "",
        ["health: the control socket is off; name one with --control, or use --status"],
    ),
    "health with nothing to ask": (
        ["health"],
        {"PORTPROXY_CONTROL": "off"},
        "",
        ["health: the control socket is off; name one with --control, or use --status"],
    ),
}
"""name -> arguments, environment, what portproxy.toml holds, lines on standard error."""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line_and_exit_code_2(portproxy: Shell, name: str) -> None:
    argv, environ, text, lines = MISTAKES[name]
    (portproxy.directory / "portproxy.toml").write_text(text)
    expected = [f"portproxy: {line.replace('{}', argv[0])}" for line in lines]
    assert portproxy(*argv, environ=environ) == (2, "", expected)


def test_an_unreadable_file(portproxy: Shell) -> None:
    (portproxy.directory / "loop.toml").symlink_to("loop.toml")
    line = "portproxy: loop.toml: cannot be read: Too many levels of symbolic links"
    assert portproxy("check", "-c", "loop.toml") == (2, "", [line])


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_is_no_mistake(portproxy: Shell, argv: list[str]) -> None:
    code, output, errors = portproxy(*argv)
    assert (code, errors) == (0, [])
    assert output.startswith("Usage: portproxy [OPTIONS] [COMMAND]")
    for command in ("check", "demo", "health", "serve"):
        assert f"\n  {command} " in output
        assert portproxy(command, "--help")[::2] == (0, [])


def test_version_and_module(portproxy: Shell) -> None:
    code, output, errors = portproxy("--version")
    assert (code, errors) == (0, [])
    assert output.startswith("portproxy ")
    assert portproxy.run([sys.executable, "-m", "portproxy", "--version"]) == (code, output, errors)


def test_check_says_what_would_be_run(portproxy: Shell) -> None:
    environ = {"PORTPROXY_RULES": "v4tov6 81", "PORTPROXY_CONTROL": "off"}
    code, output, errors = portproxy("check", "--rule", RULE, environ=environ)
    assert (code, errors) == (0, [])
    assert output.splitlines() == [
        "rule         type    listens on  connects to     options   state",
        "v4tov6/*:81  v4tov6  *:81        [::1]:81        defaults  would listen",
        "web          v6tov4  *:8080      127.0.0.1:8000  defaults  would listen",
        "",
        "server: status=off control=off log=console accesslog=- draintimeout=30s user=off workers=1",
        "warning: v4tov6/*:81, web: whoever connects reaches the upstream as a local client; where it trusts "
        "those, set allow, or a connectsource that it does not trust (127.0.0.2)",
    ]


def test_check_shows_warnings(portproxy: Shell) -> None:
    code, output, errors = portproxy(
        "check", "--rule", RULE, "--rule", "v6tov4 8080 listenaddress=:: name=late"
    )
    assert (code, errors) == (0, [])
    assert "shadowed by web" in output
    warning = 'warning: --rule 2 (late): listenaddress = "::": shadowed by '
    assert any(line.startswith(warning) for line in output.splitlines())


def test_output_in_a_locale_that_cannot_write_it(portproxy: Shell) -> None:
    code, output, errors = portproxy(
        "check", "--rule", "v6tov4 8080 name=\N{SNOWMAN}", environ={"PYTHONIOENCODING": "latin-1"}
    )
    assert (code, errors) == (0, [])
    assert r"\u2603" in output


def test_nobody_reads_the_output(portproxy: Shell) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert portproxy("check", "--rule", RULE, stdout=writing) == (1, "", [])
        assert portproxy("demo", stdout=writing) == (1, "", [])
    finally:
        os.close(writing)


def test_no_room_for_the_output(portproxy: Shell) -> None:
    with open("/dev/full", "wb") as full:
        line = "portproxy: standard output: No space left on device"
        assert portproxy("check", "--rule", RULE, stdout=full.fileno()) == (1, "", [line])
        assert portproxy("demo", stdout=full.fileno()) == (1, "", [line])
        for argv in (["--version"], ["--help"], ["serve", "--help"], []):
            assert portproxy(*argv, stdout=full.fileno()) == (1, "", [line])


def test_closed_streams(portproxy: Shell) -> None:
    script = 'exec "$0" "$@" >&- 2>&- <&-'
    assert portproxy.run(["sh", "-c", script, PORTPROXY, "check", "--rule", RULE]) == (0, "", [])
    assert portproxy.run(["sh", "-c", script, PORTPROXY, "check"]) == (2, "", [])


def test_a_log_never_goes_into_a_connection(portproxy: Shell) -> None:
    """Sockets take the numbers of closed streams, and those are where the logs are written."""
    port = free_port()
    rule = f"v4tov4 {port} listenaddress=127.0.0.1 connectport={{}}"
    script = 'exec "$0" "$@" >&- 2>&- <&-'
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        argv = ["serve", "--rule", rule.format(upstream.getsockname()[1])]
        with portproxy.started("sh", "-c", script, PORTPROXY, *argv) as process:
            while portproxy("health")[0]:
                assert process.poll() is None
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port)) as client, upstream.accept()[0] as server:
                    server.sendall(b"reply")
                    server.shutdown(socket.SHUT_WR)
                    client.shutdown(socket.SHUT_WR)
                    assert server.recv(100) == b""
                    assert client.recv(100) == b"reply"
                    assert client.recv(100) == b""
            assert stopped(process, signal.SIGTERM).code == 0


def test_another_system_than_linux(portproxy: Shell) -> None:
    code = "import sys; sys.platform = 'darwin'; from portproxy.cli import main; main()"
    line = "portproxy: Linux only: it moves bytes with splice(2) and waits with epoll(7)"
    assert portproxy.run([sys.executable, "-c", code]) == (1, "", [line])


AS_A_USER = "import os; os.geteuid = lambda: 1000; from portproxy.cli import main; main()"


def test_no_place_for_the_default_control_socket(portproxy: Shell) -> None:
    """It is warned of, and the relay works; health asks the status endpoint then."""
    port, status = free_port(), f"127.0.0.1:{free_port()}"
    environ = {
        "PORTPROXY_CONTROL": "",
        "PORTPROXY_STATUS": status,
        "PORTPROXY_RULES": f"v4tov4 {port} connectport=1 listenaddress=127.0.0.1",
        "XDG_RUNTIME_DIR": "/nowhere",
    }
    user = [sys.executable, "-c", AS_A_USER]
    told = (
        "control is off: no socket can be made at /nowhere/portproxy.sock; name another place with --control"
    )
    code, output, errors = portproxy.run([*user, "check"], environ=environ)
    assert (code, errors) == (0, [])
    assert "control=off" in output
    assert f"warning: {told}" in output.splitlines()
    with portproxy.started(*user, "serve", environ=environ) as process:
        assert process.stderr is not None
        assert told in process.stderr.readline()
        assert "listening" in process.stderr.readline()
        assert "control=off" in process.stderr.readline()
        assert portproxy.run([*user, "health"], environ=environ) == (0, "ready\n", [])
        assert stopped(process, signal.SIGTERM).code == 0


def test_no_place_for_a_control_socket_that_was_asked_for(portproxy: Shell) -> None:
    path = portproxy.directory / "nowhere" / "control.sock"
    code, _, errors = portproxy(
        "serve", "--rule", f"v4tov4 {free_port()} connectport=1", "--control", str(path)
    )
    assert (code, errors[-1]) == (1, f"portproxy: control {path}: No such file or directory")
    assert not path.parent.exists()


def test_a_default_file_that_cannot_be_looked_at(portproxy: Shell) -> None:
    """It is not taken for one that is not there."""
    (portproxy.directory / "loop.toml").symlink_to("loop.toml")
    code = (
        "from portproxy import config; config.DEFAULT_PATH = 'loop.toml'\n"
        "from portproxy.cli import main; main()"
    )
    argv = [sys.executable, "-c", code, "check", "--rule", RULE]
    line = "portproxy: loop.toml: cannot be read: Too many levels of symbolic links"
    assert portproxy.run(argv) == (2, "", [line])
    (portproxy.directory / "loop.toml").unlink()
    assert portproxy.run(argv)[::2] == (0, [])


def test_a_reload_without_rules_changes_nothing(portproxy: Shell) -> None:
    file = portproxy.directory / "portproxy.toml"
    file.write_text(f'[[rule]]\ntype = "v4tov4"\nlistenport = {free_port()}\nconnectport = 1\n')
    with portproxy.serving("-c", str(file)) as process:
        assert process.stderr is not None
        file.write_text("")
        process.send_signal(signal.SIGHUP)
        told = "no rules are left; if that is meant, `portproxy reset --no-save` deletes them first"
        assert f'not reloaded problem="{told}"' in process.stderr.readline()
        assert portproxy("health") == (0, "1 rule listening, 0 sessions\n", [])


def test_a_port_in_use(portproxy: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, _, errors = portproxy("serve", "--rule", f"v4tov4 {port} connectport=1 name=web")
    assert code == 1
    assert errors[-1].startswith(f"portproxy: rule web: cannot listen on 0.0.0.0:{port}: the port is in use")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_serve(portproxy: Shell, number: signal.Signals) -> None:
    with portproxy.serving("--rule", f"v6tov4 {free_port()} connectport=1") as process:
        ended = stopped(process, number)
        assert ended.code == 0
        assert " stopped" in ended.errors


@pytest.mark.parametrize("argv", [[PORTPROXY], [sys.executable, "-m", "portproxy"]])
def test_ctrl_c_while_modules_are_imported(portproxy: Shell, argv: list[str]) -> None:
    """One of them waits until it comes."""
    (portproxy.directory / "click.py").write_text(
        "import signal; print('here', flush=True); signal.pause(); 1/0"
    )
    environ = {"PYTHONPATH": str(portproxy.directory)}
    with portproxy.started(*argv, "check", environ=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        ended = stopped(process, signal.SIGINT)
    assert (ended.code, ended.output, ended.errors) == (-signal.SIGINT, "", "")


def test_ctrl_c_that_is_ignored_stays_so(portproxy: Shell) -> None:
    """As a shell without job control has it for what runs in the background."""
    (portproxy.directory / "click.py").write_text(
        "import signal; print(signal.getsignal(signal.SIGINT).name); raise SystemExit"
    )
    script = "trap '' INT; exec \"$0\" -m portproxy"
    environ = {"PYTHONPATH": str(portproxy.directory)}
    assert portproxy.run(["sh", "-c", script, sys.executable], environ=environ) == (0, "SIG_IGN\n", [])
