"""Configurations as people write them: what they become, and every line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from portproxy import config
from portproxy.errors import ConfigError
from portproxy.model import Config, DataPlaneChoice, Endpoint, Limits, RuleType

RULE = '[[rule]]\ntype = "v6tov4"\nlistenport = 8080\n'
DURATION = "a duration is a number of seconds or like 250ms, 5s, 10m, 1h; "
TYPES = "one of v4tov4, v4tov6, v6tov4, v6tov6"
USER = 'a user\'s name or number, or both user and group as in "relay:relay", or "off"'
PORT = "a port is a number from 1 to 65535 or a service name"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.parse(text, "portproxy.toml")
    return list(raised.value.lines)


def file(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "portproxy.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


EVERYTHING = """
[server]
status = "[::1]:9180"
control = "off"
log = "json"
accesslog = "off"
draintimeout = 0
user = "relay:1000"
workers = 64

[defaults]
connecttimeout = "250ms"
maxconn = 10
allow = ["192.0.2.0/24", "2001:db8::/32"]

[[rule]]
type = "V6toV4"
listenport = "http"
listenaddress = "fe80::1%eth0"
connectaddress = "backend.example"
connectport = "8080"
protocol = "tcp"
name = "web"
idletimeout = "off"
halfclosetimeout = 1.5
maxlifetime = "24h"
keepalive = 0
usertimeout = "30s"
maxconn = "off"
maxconnpersource = 4
deny = "2001:db8:1::/48, 2001:db8::7"
connectsource = "192.0.2.9"
backlog = 1
nodelay = false
pipesize = "64k"
dataplane = "copy"
"""


def test_everything_at_once() -> None:
    made = config.parse(EVERYTHING, "portproxy.toml")
    (rule,) = made.rules
    assert (made.server.status, made.server.control, made.server.log) == (Endpoint("::1", 9180), None, "json")
    assert (made.server.accesslog, made.server.draintimeout) == (None, 0)
    assert (made.server.user, made.server.workers) == ("relay:1000", 64)
    assert (rule.type, rule.name, rule.protocol) == (RuleType.V6TOV4, "web", "tcp")
    assert (rule.listen, rule.connect) == (Endpoint("fe80::1%eth0", 80), Endpoint("backend.example", 8080))
    assert rule.limits == Limits(0.25, None, 1.5, 86400.0, None, 4)
    assert [str(prefix) for prefix in rule.acl.allow] == ["2001:db8::/32"]
    assert [str(prefix) for prefix in rule.acl.deny] == ["2001:db8:1::/48", "2001:db8::7/128"]
    assert (rule.keepalive, rule.usertimeout, rule.connectsource) == (None, 30.0, "192.0.2.9")
    assert (rule.backlog, rule.nodelay, rule.pipesize) == (1, False, 65536)
    assert rule.dataplane is DataPlaneChoice.COPY


@pytest.mark.parametrize(
    ("rule", "listen", "connect", "name"),
    [
        ("v4tov6 80", "*:80", "[::1]:80", "v4tov6/*:80"),
        ("v6tov4 80", "*:80", "127.0.0.1:80", "v6tov4/*:80"),
        ("v6tov6 80 connectport=81 listenaddress=::1", "[::1]:80", "[::1]:81", "v6tov6/[::1]:80"),
        ("v4tov4 1 192.0.2.1 2 localhost tcp", "localhost:1", "192.0.2.1:2", "v4tov4/localhost:1"),
        ("v4tov4 1 db_1.example. 2", "*:1", "db_1.example.:2", "v4tov4/*:1"),
    ],
)
def test_what_is_left_out(rule: str, listen: str, connect: str, name: str) -> None:
    (made,) = config.read(None, [rule]).config().rules
    assert (str(made.listen), str(made.connect), made.name) == (listen, connect, name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("servers = 1", "servers = 1: unknown table or key; did you mean server?"),
        ("[x]", "x = {...}: unknown table or key; known are server, defaults, rule, tunnel"),
        ("server = 5", "server = 5: a table, headed [server]"),
        ("[[defaults]]", "defaults = [{...}]: a table, headed [defaults]"),
        ("[rule]", "rule = {...}: each rule is a table of its own, headed [[rule]]"),
        ("rule = [[[1]]]", "rule = [[...]]: each rule is a table of its own, headed [[rule]]"),
        ("rule = [1]", "rule = [1]: each rule is a table of its own, headed [[rule]]"),
        (RULE + "idletimout = 1", "rule 1: idletimout = 1: unknown key here; did you mean idletimeout?"),
        ("[defaults]\nmaxcon = 1", "[defaults]: maxcon = 1: unknown key here; did you mean maxconn?"),
        ("[server]\nstats = 1", "[server]: stats = 1: unknown key here; did you mean status?"),
        ("[server]\nlog = 1", "[server]: log = 1: one of console, json"),
        ("[server]\ndraintimeout = -1", f"[server]: draintimeout = -1: {DURATION}from 0s to 8760h"),
        ("[server]\naccesslog = 1", '[server]: accesslog = 1: a path, "-" for standard output, or "off"'),
        ('[[rule]]\nname = "a"\nlistenport = 1', f"rule 1 (a): type is missing: {TYPES}"),
        ('[[rule]]\ntype = "v6tov4"', f"rule 1: listenport is missing: {PORT}"),
        ('[[rule]]\ntype = "v6to4"\nlistenport = 1', 'rule 1: type = "v6to4": did you mean v6tov4?'),
        (
            "a = 1\r\na = 2\r\nb = 3",
            "line 2, column 6: a = 2: Cannot overwrite a value; this key has a value already, leave one out",
        ),
        (
            "[[rule]]\ntype=v6tov4",
            'line 2, column 6: type=v6tov4: Invalid value; text stands in quotes: type = "v6tov4"',
        ),
        (
            "a = 192.0.2.1 # here",
            "line 1, column 10: a = 192.0.2.1 # here: Expected newline or end of document after a statement; "
            'text stands in quotes: a = "192.0.2.1"',
        ),
        ("a = [\n  b]\n", "line 2, column 3: b]: Invalid value"),
        ("\n a =", "line 2, column 5: a =: Invalid value"),
        ("[\x01]", r"line 1, column 2: [\x01]: Invalid initial character for a key part"),
        (
            "a =" + " " * 99 + "\"" + "b" * 99,
            f"line 1, column 203: a ={' ' * 57}: Unterminated string",
        ),
        ("a = " + "[" * 500, "nested deeper than any configuration is"),
        ("a = " + "9" * 5000, "holds a number of thousands of digits, which nothing takes"),
        (
            f"{RULE}backlog = 0x{'f' * 5000}",
            "rule 1: backlog = a number of 20000 bits: a whole number from 1 to 65535",
        ),
        (
            f'[defaults]\nallow = ["10.0.0.0/8"]\n{RULE}{RULE}listenaddress = "::1"',
            '[defaults]: allow = ["10.0.0.0/8"]: no IPv6 prefix, and v6tov4 listens on IPv6; '
            "give those rules their own allow",
        ),
        (
            f'[defaults]\nconnectsource = "::1"\n{RULE}',
            '[defaults]: connectsource = "::1": v6tov4 connects to IPv4; type = "v6tov6" would take it; '
            "give those rules their own connectsource",
        ),
    ],
)  # fmt: skip
def test_a_document_that_is_not_accepted(text: str, line: str) -> None:
    assert problems(text) == [f"portproxy.toml: {line}"]


@pytest.mark.parametrize(
    "value",
    ["x", ":9180", "127.0.0.1", "::1:9180", "[127.0.0.1]:1", "localhost:1", "127.0.0.1:0", "127.0.0.1:70000"],
)
def test_a_status_endpoint_that_is_not_accepted(value: str) -> None:
    (line,) = problems(f'[server]\nstatus = "{value}"')
    assert line.startswith(f'portproxy.toml: [server]: status = "{value}": an address and a port, like ')


@pytest.mark.parametrize("value", ["run/control.sock", "/" + "a" * 99, "/a\\u0000"])
def test_a_control_socket_that_is_not_accepted(value: str) -> None:
    (line,) = problems(f'[server]\ncontrol = "{value}"')
    assert line.startswith('portproxy.toml: [server]: control = "')
    assert line.endswith(': an absolute path of at most 99 bytes, or "off"')


@pytest.mark.parametrize(
    ("written", "user"),
    [
        *(('"nobody"', "nobody"), ('"www-data:adm"', "www-data:adm"), ('"65534"', "65534"), ("1000", "1000")),
        *(
            ('"0:0"', "0:0"),
            ('"CORP\\\\relay$"', "CORP\\relay$"),
            ('"a.b@example"', "a.b@example"),
            ('"off"', None),
        ),
        (f'"{"u" * 256}:4294967294"', f"{'u' * 256}:4294967294"),
    ],
)
def test_a_user_is_taken_as_chown_does(written: str, user: str | None) -> None:
    assert config.parse(f"[server]\nuser = {written}", "portproxy.toml").server.user == user


@pytest.mark.parametrize(
    ("key", "values", "accepts"),
    [
        ("user", ['""', '":"', '"a:"', '":b"', '"a:b:c"', '"-a"', '"a:-b"', '"a b"', '"a/b"', "-1"], USER),
        ("user", ["4294967295", '"a:4294967295"', "1.5", "true", '["a"]', f'"{"u" * 257}"'], USER),
        ("workers", ["0", "65", "-1", "true", "2.0", '"two"', '"off"'], "a whole number from 1 to 64"),
    ],
)
def test_no_user_and_no_number_of_workers(key: str, values: list[str], accepts: str) -> None:
    for value in values:
        (line,) = problems(f"[server]\n{key} = {value}")
        assert line.startswith(f"portproxy.toml: [server]: {key} = ")
        assert line.endswith(f": {accepts}")


def test_defaults_hold_for_every_source_and_give_way_to_a_rule(tmp_path: Path) -> None:
    path = file(tmp_path, f'[defaults]\nmaxconn = 7\nallow = ["10.0.0.0/8", "::1"]\n{RULE}allow = []\n')
    made = config.read(path, ["v4tov6 1 maxconn=8"], {"PORTPROXY_RULES": "v4tov6 2"}).config()
    assert [rule.limits.maxconn for rule in made.rules] == [7, 7, 8]
    assert [[str(prefix) for prefix in rule.acl.allow] for rule in made.rules] == [
        [],
        ["10.0.0.0/8"],
        ["10.0.0.0/8"],
    ]


def test_a_default_that_fits_no_rule_harms_none() -> None:
    made = config.parse(f'[defaults]\nallow = ["10.0.0.0/8"]\n{RULE}allow = ["::1"]', "portproxy.toml")
    assert [str(prefix) for prefix in made.rules[0].acl.allow] == ["::1/128"]


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    path = file(tmp_path, f"[server]\nlog = 1\n[defaults]\nbacklog = 0\n{RULE}\nmaxconn = -1\nnodelay = 2\n")
    with pytest.raises(ConfigError) as raised:
        config.read(path, ["v6tov4"], {"PORTPROXY_RULES": "\nx"}, status="y", control="z").config()
    said = [
        line.removeprefix(f"{path}: ").partition(" = ")[0].partition(" is ")[0] for line in raised.value.lines
    ]
    assert said == [
        "[server]: log",
        "--status",
        "--control",
        "[defaults]: backlog",
        "rule 1: maxconn",
        "rule 1: nodelay",
        "PORTPROXY_RULES: rule 1: type",
        "PORTPROXY_RULES: rule 1: listenport",
        "--rule 1: listenport",
    ]
    assert raised.value.exit_code == 2


def test_problems_come_in_the_order_of_the_rules() -> None:
    rules = ["v4tov4 80", "show all", "v6tov4 81 name=a", "v6tov4", "v6tov4 82 name=a", "v6tov4 83 x=1"]
    with pytest.raises(ConfigError) as raised:
        config.read(None, rules).config()
    assert [line[:8] for line in raised.value.lines] == [f"--rule {number}" for number in (1, 2, 4, 5, 6)]


def test_the_environment_rules() -> None:
    text = "\n# v4tov4 1; v4tov4 2\n v6tov4 3 ;;v6tov4 4; # v6tov4 5; v6tov4 6\n\tv6tov4 7\n"
    made = config.read(None, ["v6tov4 9"], {"PORTPROXY_RULES": text}).config()
    assert [rule.listen.port for rule in made.rules] == [3, 4, 7, 9]


def test_a_semicolon_in_quotes_ends_no_rule() -> None:
    text = """v6tov4 1 name="a;b";v6tov4 2 'name=c;"d' ; v6tov4 3 name="e\\";f" # it's; not so"""
    with pytest.raises(ConfigError, match=r"^PORTPROXY_RULES: rule 3"):
        config.read(None, (), {"PORTPROXY_RULES": text}).config()
    made = config.read(None, (), {"PORTPROXY_RULES": text.partition(" #")[0]}).config()
    assert [rule.name for rule in made.rules] == ["a;b", 'c;"d', 'e";f']


@pytest.mark.parametrize("open_quote", ['"', "'", '"\\', '"' + '\\"' * 60_000])
def test_a_quote_without_its_end_is_one_problem(open_quote: str) -> None:
    """And takes no longer to find where it could begin again with every character."""
    with pytest.raises(ConfigError) as raised:
        config.read(None, (), {"PORTPROXY_RULES": f"v6tov4 1 name={open_quote}a;b; v6tov4 2"}).config()
    (line,) = raised.value.lines
    assert line.startswith("PORTPROXY_RULES: rule 1: ")


def test_command_line_before_environment_before_file(tmp_path: Path) -> None:
    path = file(tmp_path, '[server]\nstatus = "127.0.0.1:1"\ncontrol = "/a"')
    environ = {"PORTPROXY_STATUS": "127.0.0.1:2", "PORTPROXY_CONTROL": ""}
    assert config.read(path).config().server.status == Endpoint("127.0.0.1", 1)
    assert config.read(path, (), environ).config().server.status == Endpoint("127.0.0.1", 2)
    assert config.read(path, (), environ).config().server.control == "/a"
    assert config.read(path, (), environ, status="off", control="/c").config().server.status is None
    assert config.read(path, (), environ, status="off", control="/c").config().server.control == "/c"


def test_user_and_workers_of_the_environment_and_the_command_line(tmp_path: Path) -> None:
    path = file(tmp_path, '[server]\nuser = "a"\nworkers = 2')
    environ = {"PORTPROXY_USER": "b", "PORTPROXY_WORKERS": "3"}
    for read, is_read in (
        (config.read(path), ("a", 2)),
        (config.read(path, (), environ), ("b", 3)),
        (config.read(path, (), environ, user="c:d", workers="4"), ("c:d", 4)),
        (config.read(path, (), environ, user="off", workers="1"), (None, 1)),
    ):
        server = read.config().server
        assert (server.user, server.workers) == is_read
    with pytest.raises(ConfigError) as raised:
        config.read(None, (), {"PORTPROXY_USER": "b c"}, workers="many").config()
    assert raised.value.lines == (
        f'PORTPROXY_USER = "b c": {USER}',
        '--workers = "many": a whole number from 1 to 64',
    )
    # Who asks a relay has none to start.
    assert config.load_server(None, {"PORTPROXY_WORKERS": "many"}).workers == 1


def test_the_default_control_gives_way(tmp_path: Path) -> None:
    default = config.DefaultControl("/default", "careful")
    path = file(tmp_path, 'server = {control = "/a"}')
    for made in (
        config.read(None, default_control=default).config(),
        config.read("/dev/null", default_control=default).config(),
    ):
        assert (made.server.control, made.warnings) == ("/default", ("careful",))
    for made in (
        config.read(path, default_control=default).config(),
        config.read(None, control="/a", default_control=default).config(),
    ):
        assert (made.server.control, made.warnings) == ("/a", ())
    assert config.read(None, control="off", default_control=default).config().server.control is None
    assert config.read(None).config().server.control is None


def test_no_file_and_no_rules_is_an_empty_configuration() -> None:
    assert config.parse("", "portproxy.toml") == Config(server=config.parse("", "x").server)
    assert config.read(None).config().rules == ()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, told in [
        (str(tmp_path / "none.toml"), "cannot be read: No such file or directory"),
        (str(tmp_path), "cannot be read: Is a directory"),
        (file(tmp_path, b"a = 1\n# \xff"), "line 2: byte 0xff is not UTF-8, which TOML is written in"),
    ]:
        with pytest.raises(ConfigError) as raised:
            config.read(path).config()
        assert raised.value.lines == (f"{path}: {told}",)
    with pytest.raises(ConfigError, match=r"a\\x00b: no file can have this name"):
        config.read("a\0b").config()


def test_a_file_too_large(tmp_path: Path) -> None:
    path = tmp_path / "sparse.toml"
    with path.open("wb") as sparse:
        sparse.truncate((64 << 20) + 1)
    with pytest.raises(ConfigError, match="larger than 64 MiB"):
        config.read(str(path)).config()


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert len(config.read(file(tmp_path, b"\xef\xbb\xbf" + RULE.encode())).config().rules) == 1
