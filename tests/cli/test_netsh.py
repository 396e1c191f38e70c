"""netsh's commands on a running relay, as a user types them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import PORTPROXY, Said, Shell, free_port, stopped

NOTHING: Said = (0, "\n", [])


@pytest.fixture
def file(portproxy: Shell) -> Path:
    path = portproxy.directory / "portproxy.toml"
    path.write_text('# What this host exposes.\n[server]\ndraintimeout = "5s"\n')
    return path


@pytest.fixture
def relay(portproxy: Shell, file: Path) -> Iterator[Shell]:
    """A relay that reads ``file``, and a shell beside it."""
    with portproxy.serving("-c", str(file)):
        yield portproxy


def fetched(port: int, address: str = "127.0.0.1") -> bytes:
    """What whoever listens there says first."""
    with socket.create_connection((address, port), timeout=10) as sock:
        return sock.recv(100)


@pytest.fixture
def greeter() -> Iterator[int]:
    """The port of a service that greets, on both families' loopback addresses."""
    greeting = "import socket,os\ns=socket.create_server(('::1',0),family=socket.AF_INET6)\n"
    greeting += (
        "p=s.getsockname()[1]\nprint(p,flush=True)\nwhile 1:\n c,_=s.accept(); c.sendall(b'hello'); c.close()"
    )
    with subprocess.Popen(["python3", "-c", greeting], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_a_rule_from_add_to_delete(relay: Shell, file: Path, greeter: int) -> None:
    before = file.read_text()
    port = free_port()
    assert relay("show", "all") == NOTHING
    started = f"start   v4tov6/*:{port}: v4tov6 *:{port} -> [::1]:{greeter}\n"
    code, said, warned = relay("add", "v4tov6", f"listenport={port}", f"connectport={greeter}")
    assert (code, said) == (0, started)
    assert len(warned) == 1
    assert "whoever connects reaches the upstream as a local client" in warned[0]
    assert fetched(port) == b"hello"
    assert relay("show", "all") == (
        0,
        "\nListen on ipv4:             Connect to ipv6:\n\n"
        "Address         Port        Address         Port\n"
        "--------------- ----------  --------------- ----------\n"
        f"*               {port:<10}  ::1             {greeter}\n\n",
        [],
    )
    assert file.read_text() == (
        before + f'\n[[rule]]\ntype = "v4tov6"\nlistenport = {port}\nconnectport = {greeter}\n'
    )
    assert relay("interface", "portproxy", "set", "v4tov6", str(port), "maxconn=100") == (
        0,
        f"change  v4tov6/*:{port}: maxconn off -> 100\n",
        [],
    )
    assert "maxconn = 100\n" in file.read_text()
    assert relay("int", "p", "del", "v4tov6", str(port)) == (0, f"stop    v4tov6/*:{port}\n", [])
    assert file.read_text() == before
    assert relay("show", "v4tov6") == NOTHING
    with pytest.raises(ConnectionRefusedError):
        fetched(port)


def test_dump_and_import(relay: Shell, file: Path) -> None:
    ports = [free_port() for _ in range(3)]
    relay(
        "add", "v4tov6", str(ports[0]), "::1", "1", "maxconn=5", 'name=a rule of "mine"', "allow=192.0.2.0/24"
    )
    relay("add", "v6tov4", str(ports[1]), "db.example.net", "5432", "::1", "idletimeout=90s")
    code, dumped, _ = relay("dump")
    assert code == 0
    assert dumped == (
        "#========================\n# Port Proxy configuration\n#========================\n"
        "pushd interface portproxy\n\nreset\n"
        f"add v4tov6 listenport={ports[0]} connectaddress=::1 connectport=1"
        ' name="a rule of \\"mine\\"" maxconn=5 allow=192.0.2.0/24\n'
        f"add v6tov4 listenport={ports[1]} connectaddress=db.example.net connectport=5432 listenaddress=::1"
        " idletimeout=90s\n"
        "\n\npopd\n\n# End of Port Proxy configuration\n"
    )
    saved = file.read_text()
    dump = file.with_name("dump.txt")
    dump.write_text(dumped)
    assert relay("import", str(dump)) == (0, "2 taken, 0 skipped\nno rule that listens changes\n", [])
    relay("add", "v4tov4", str(ports[2]), "198.51.100.1")
    assert relay("import", str(dump), "--dry-run") == (
        0,
        f"2 taken, 0 skipped\nstop    v4tov4/*:{ports[2]}\nkeep    2 rules\n",
        [],
    )
    assert relay("import", str(dump)) == (0, f"2 taken, 0 skipped\nstop    v4tov4/*:{ports[2]}\n", [])
    assert relay("dump")[1] == dumped
    assert file.read_text() == saved


def test_importing_what_windows_printed(relay: Shell, file: Path) -> None:
    ports = [free_port() for _ in range(3)]
    shown = (
        "\r\nAbh\u00f6ren auf ipv4:             Verbinden mit ipv4:\r\n\r\n"
        "Adresse         Port        Adresse         Port\r\n"
        "--------------- ----------  --------------- ----------\r\n"
        f"127.0.0.1       {ports[0]}        198.51.100.1       80\r\n"
        f"127.0.0.1       {ports[1]}        ::1             80\r\n"
        f"127.0.0.2       {ports[2]}        198.51.100.2       81\r\n\r\n"
    )
    windows = file.with_name("windows.txt")
    windows.write_bytes(b"\xff\xfe" + shown.encode("utf-16-le"))
    code, said, skipped = relay("import", str(windows))
    assert (code, said.splitlines()[0]) == (1, "2 taken, 1 skipped")
    assert skipped == [
        'line 7: skipped: connectaddress = "::1": v4tov4 connects to IPv4; type = "v4tov6" would take it'
    ]
    assert len(relay("show", "all")[1].splitlines()) == 8
    assert relay("import", os.devnull) == (
        1,
        "",
        [f"portproxy: {os.devnull}: nothing in it that makes a rule; is it a dump of netsh's?"],
    )
    assert relay("import", "nosuch") == (
        1,
        "",
        ["portproxy: nosuch: cannot be read: No such file or directory"],
    )


def test_import_takes_what_it_can_and_says_what_not(relay: Shell, file: Path) -> None:
    port = free_port()
    script = file.with_name("script.txt")
    script.write_text(
        "interface portproxy add v4tov4 81 198.51.100.1 protocol=udp\n"
        f"interface portproxy add v4tov4 {port} 198.51.100.1\n"
        "interface portproxy add v4tov4 nosuchservice 198.51.100.1\n"
        "interface portproxy delete v4tov4 9\n"
        "interface portproxy add v4tov4 82 ::1\n"
    )
    code, said, skipped = relay("import", str(script))
    assert (code, said.splitlines()[0]) == (1, "1 taken, 4 skipped")
    assert [line.partition(";")[0].partition(": UDP")[0] for line in skipped] == [
        'line 1: skipped: protocol = "udp"',
        'line 3: skipped: listenport = "nosuchservice": no TCP service of this name is known here',
        "line 4: skipped: v4tov4/*:9: no such entry",
        'line 5: skipped: connectaddress = "::1": v4tov4 connects to IPv4',
    ]


def test_a_dump_of_which_nothing_can_be_taken_deletes_nothing(relay: Shell, file: Path) -> None:
    port = free_port()
    relay("add", "v4tov4", str(port), "198.51.100.1")
    dump = file.with_name("dump.txt")
    dump.write_text("pushd interface portproxy\nreset\nadd v4tov4 listenport=82 connectaddress=::1\npopd\n")
    code, said, errors = relay("import", str(dump))
    assert (code, said) == (1, "0 taken, 1 skipped\nno rule that listens changes\n")
    assert errors[0].startswith('line 3: skipped: connectaddress = "::1": v4tov4 connects to IPv4')
    assert str(port) in relay("show", "all")[1]


def test_arguments_that_are_no_text(relay: Shell) -> None:
    for words in (["add", "v4tov4", "80"], ["explain"], ["kill"], ["sessions"]):
        done = subprocess.run(
            [PORTPROXY, *words, b"\xff"], env=relay.environ, capture_output=True, check=False
        )
        assert done.stderr == b"portproxy: an argument is not UTF-8, which no name or address is without\n"
        assert done.returncode == 1


def test_a_dry_run_changes_nothing(relay: Shell, file: Path) -> None:
    before = file.read_text()
    port = free_port()
    relay("add", "v4tov4", str(port), "198.51.100.1", "--no-save")
    planned = relay("set", "v4tov4", str(port), "198.51.100.2", "--dry-run")
    assert planned == (
        0,
        f"change  v4tov4/*:{port}: connect 198.51.100.1:{port} -> 198.51.100.2:{port}\nkeep    0 rules\n",
        [],
    )
    assert "198.51.100.1" in relay("show", "all")[1]
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("add", "add: the type is missing; one of v4tov4, v4tov6, v6tov4, v6tov6"),
        ("add v4tov5 80", '"v4tov5": no such rule type; did you mean v4tov6?'),
        ("add v4tov4 80 maxcon=1", 'maxcon = "1": no such tag; did you mean maxconn?'),
        ("show", "show: what to show is missing; one of all, v4tov4, v4tov6, v6tov4, v6tov6"),
        ("d", '"d": short for delete and for dump; write more of it'),
        ("x", "No such command 'x'. Try 'portproxy --help'."),
    ],
)
def test_mistakes_that_need_no_relay_to_be_seen(portproxy: Shell, words: str, problem: str) -> None:
    assert portproxy(*words.split()) == (2, "", [f"portproxy: {problem}"])


def test_mistakes_that_the_relay_sees(relay: Shell) -> None:
    wrong_family = 'connectaddress = "::1": v4tov4 connects to IPv4; type = "v4tov6" would take it'
    for words, code, problem in (
        ("delete v4tov4 1", 1, "v4tov4/*:1: no such entry"),
        ("sessions nosuch", 1, '"nosuch": there is no such rule; `portproxy status` lists them'),
        ("kill 7", 1, '"7": there is no such session; `portproxy sessions` lists them'),
        ("explain nosuch", 1, '"nosuch": there is no such rule; `portproxy status` lists them'),
        ("add v4tov4 80 ::1", 2, f"v4tov4/*:80: {wrong_family}"),
    ):
        assert relay(*words.split()) == (code, "", [f"portproxy: {problem}"]), words


@pytest.mark.parametrize(
    "words", ["add v4tov4 80", "import /dev/stdin", "show all", "status", "sessions", "kill 1", "explain x"]
)
def test_a_relay_that_says_something_else(portproxy: Shell, words: str) -> None:
    """Another version, or no relay at all: a line, and nothing that a terminal obeys."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(portproxy.control))
        listener.listen()
        answer = b'{"ok":true,"text":"\\u001b[2J"}'
        code = (
            "import socket, sys; listener = socket.socket(fileno=int(sys.argv[1]))\n"
            f"while True: listener.accept()[0].sendall(len({answer!r}).to_bytes(4, 'big') + {answer!r})"
        )
        fake = subprocess.Popen(
            [sys.executable, "-c", code, str(listener.fileno())], pass_fds=[listener.fileno()]
        )
    try:
        typed = f"echo add v4tov4 80 | {PORTPROXY} {words}"
        _, said, errors = portproxy.run(["bash", "-c", typed])
        assert "\x1b" not in said + "".join(errors)
        assert said or errors
    finally:
        fake.kill()
        fake.wait()


@pytest.mark.parametrize(
    "words", [["add", "?"], ["add", "v6tov4", "/?"], ["help", "add"], ["a", "-?"], ["add", "-h"]]
)
def test_help(portproxy: Shell, words: list[str]) -> None:
    code, said, errors = portproxy(*words)
    assert (code, errors) == (0, [])
    assert said.startswith("Usage: portproxy add")


@pytest.mark.parametrize("words", [["?"], ["help"], ["/?"], ["interface", "portproxy", "?"]])
def test_help_of_all(portproxy: Shell, words: list[str]) -> None:
    code, said, errors = portproxy(*words)
    assert (code, errors) == (0, [])
    assert said.startswith("Usage: portproxy [OPTIONS] [COMMAND]")


def test_a_rule_that_cannot_listen_is_told_and_kept(relay: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said, errors = relay("add", "v4tov4", str(port), "198.51.100.1", "--no-save")
    assert (code, said) == (1, f"start   v4tov4/*:{port}: v4tov4 *:{port} -> 198.51.100.1:{port}\n")
    assert errors[0].startswith(
        f"v4tov4/*:{port} does not listen: cannot listen on 0.0.0.0:{port}: the port is in use by "
    )
    assert errors[0].endswith(
        "; it is tried again, and the relay's next start fails where it cannot listen then"
    )


def test_without_a_relay(portproxy: Shell) -> None:
    for words in (
        ["show", "all"],
        ["add", "v4tov4", "1", "198.51.100.1"],
        ["status"],
        ["sessions"],
        ["kill", "1"],
    ):
        code, said, errors = portproxy(*words)
        assert (code, said) == (1, "")
        assert errors[0].startswith(f"portproxy: no relay answers at {portproxy.control}: No such file")


def test_the_control_socket_is_found_by_option_variable_and_file(relay: Shell, file: Path) -> None:
    other = {"PORTPROXY_CONTROL": str(relay.directory / "other.sock")}
    assert relay("show", "all", environ=other)[0] == 1
    assert relay("show", "all", "--control", str(relay.control), environ=other) == NOTHING
    file.write_text(f'[server]\ncontrol = "{relay.control}"\n')
    assert relay("show", "all", "-c", str(file), environ={"PORTPROXY_CONTROL": ""}) == NOTHING


@pytest.mark.parametrize("dry", [False, True])
def test_ctrl_c_while_a_change_is_made(portproxy: Shell, dry: bool) -> None:
    """The relay has the request then, and does not answer."""
    words = ["add", "v4tov4", "80", *(["--dry-run"] if dry else [])]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(portproxy.control))
        listener.listen()
        with portproxy.started(PORTPROXY, *words) as process:
            client, _ = listener.accept()
            with client:
                assert client.recv(1)
                ended = stopped(process, signal.SIGINT)
    told = "portproxy: the relay may go on with the change; `portproxy show all` says whether it does\n"
    assert (ended.code, ended.output, ended.errors) == (130, "", "" if dry else told)


def test_a_file_that_was_meant_and_cannot_be_read_names_no_other_relay(relay: Shell, file: Path) -> None:
    """The default one, say."""
    nothing = {"PORTPROXY_CONTROL": ""}
    broken = file.with_name("broken.toml")
    broken.write_text("[server")
    for named, told in ((file.with_name("typo.toml"), "cannot be read"), (broken, "line 1, column 8")):
        code, said, errors = relay("reset", "-c", str(named), environ=nothing)
        assert (code, said) == (2, "")
        assert errors[0].startswith(f"portproxy: {named}: {told}")


def test_a_relay_without_a_file(portproxy: Shell) -> None:
    port, other = free_port(), free_port()
    with portproxy.serving("--rule", f"v4tov4 {port} 198.51.100.1"):
        code, _, errors = portproxy("add", "v4tov4", str(other), "198.51.100.1")
        assert (code, errors) == (
            1,
            [
                "portproxy: this relay reads no configuration file that a change could be written to;"
                " change the running relay alone with --no-save"
            ],
        )
        assert portproxy("add", "v4tov4", str(other), "198.51.100.1", "--no-save")[0] == 0
        assert portproxy("delete", "v4tov4", str(port), "--no-save") == (0, f"stop    v4tov4/*:{port}\n", [])


def test_output_into_a_closed_pipe(relay: Shell) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{PORTPROXY} dump | head -c 1"],
        env=relay.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "#"
    assert "Traceback" not in done.stderr


def test_reload(relay: Shell, file: Path) -> None:
    port = free_port()
    assert relay("reload") == (0, "no rule that listens changes\n", [])
    text = file.read_text()
    file.write_text(
        text + f'[[rule]]\ntype = "v4tov4"\nlistenport = {port}\nconnectaddress = "198.51.100.1"\n'
    )
    started = f"start   v4tov4/*:{port}: v4tov4 *:{port} -> 198.51.100.1:{port}\n"
    assert relay("reload", "--dry-run") == (0, started + "keep    0 rules\n", [])
    assert relay("show", "all") == NOTHING
    assert relay("reload") == (0, started, [])
    file.write_text(text + '[[rule]]\ntype = "v4tov5"\nlistenport = 0\n')
    code, said, errors = relay("reload")
    assert (code, said) == (2, "")
    assert [line.partition(" = ")[0] for line in errors] == [
        f"portproxy: {file}: rule 1: type",
        f"portproxy: {file}: rule 1: listenport",
    ]
    file.write_text(text.replace("[server]", '[server]\nstatus = "127.0.0.1:1"'))
    assert relay("reload") == (
        2,
        "",
        ["portproxy: no rules are left; if that is meant, `portproxy reset --no-save` deletes them first"],
    )
    file.write_text(text + '[[rule]]\ntype = "v4tov4"\nlistenport = 1\nconnectaddress = "198.51.100.1"\n')
    file.write_text(
        file.read_text().replace("[server]", '[server]\nlog = "json"').replace(" = 1\n", f" = {port}\n")
    )
    assert relay("reload") == (
        0,
        "no rule that listens changes\n",
        ["warning: [server] log: takes effect at the next start only"],
    )
    file.write_text(text)
    assert relay("reset", "--no-save") == (0, f"stop    v4tov4/*:{port}\n", [])
    assert relay("reload") == (0, "no rule that listens changes\n", [])
    relay("add", "v4tov4", str(port), "198.51.100.1", "--no-save")
    assert relay("reload") == (0, f"stop    v4tov4/*:{port}\n", [])
