"""What netsh prints, byte for byte. That a dump rebuilds every table is shown in ``tests/fuzz``."""

from __future__ import annotations

from portproxy import config
from portproxy.model import Rule, RuleType
from portproxy.netsh.render import dump, show
from portproxy.options import RULE_OPTIONS

TARGET = "192.168.198.200"


def made(*commands: str) -> tuple[Rule, ...]:
    return config.read(None, commands).config().rules


SAMPLE = made(f"v4tov4 1024 {TARGET} 1024", f"v4tov4 1024 {TARGET} 2048 0.0.0.0")

SHOWN = """
Listen on ipv4:             Connect to ipv4:

Address         Port        Address         Port
--------------- ----------  --------------- ----------
*               1024        192.168.198.200 1024
0.0.0.0         1024        192.168.198.200 2048

"""

SHOWN_TWO_TYPES = """
Listen on ipv4:             Connect to ipv6:

Address         Port        Address         Port
--------------- ----------  --------------- ----------
192.0.2.1       65535       2001:db8:1234:5678:9abc:def0:1234:5678 1

Listen on ipv6:             Connect to ipv4:

Address         Port        Address         Port
--------------- ----------  --------------- ----------
a.host.with.a.name.example 80          127.0.0.1       80
*               81          127.0.0.1       81

"""

DUMPED = """\
#========================
# Port Proxy configuration
#========================
pushd interface portproxy

reset
add v4tov4 listenport=1024 connectaddress=192.168.198.200 connectport=1024
add v4tov4 listenport=1024 connectaddress=192.168.198.200 connectport=2048 listenaddress=0.0.0.0


popd

# End of Port Proxy configuration
"""


def test_show() -> None:
    assert show(SAMPLE, tuple(RuleType)) == SHOWN


def test_show_nothing() -> None:
    assert show((), tuple(RuleType)) == "\n"
    assert show(SAMPLE, [RuleType.V6TOV6]) == "\n"


def test_show_has_a_block_a_type_in_netsh_s_order_and_cuts_no_address() -> None:
    table = made(
        "v6tov4 80 listenaddress=a.host.with.a.name.example",
        "v4tov6 65535 2001:db8:1234:5678:9abc:def0:1234:5678 1 192.0.2.1",
        "v6tov4 81",
    )
    assert show(table, tuple(RuleType)) == SHOWN_TWO_TYPES
    assert show(table + SAMPLE, [RuleType.V4TOV6, RuleType.V6TOV4]) == SHOWN_TWO_TYPES
    assert show(table + SAMPLE, [RuleType.V4TOV4]) == SHOWN


def test_dump() -> None:
    assert dump(SAMPLE) == DUMPED


def test_dump_of_an_empty_table() -> None:
    lines = DUMPED.splitlines(keepends=True)
    assert dump(()) == "".join(line for line in lines if not line.startswith("add"))


def commands(*rules: Rule, always: tuple[str, ...] = ()) -> list[str]:
    return [line for line in dump(rules, always).splitlines() if line.startswith("add")]


def test_dump_prints_names_and_options_that_are_not_the_default() -> None:
    (rule,) = made(
        r"""v6tov4 80 name='a "b" \c #d' maxconn=5 allow=2001:db8::/32,2001:db9::1 idletimeout=off"""
    )
    tags = "listenport=80 connectaddress=127.0.0.1 connectport=80"
    options = "idletimeout=off maxconn=5 allow=2001:db8::/32,2001:db9::1/128"
    assert commands(rule) == [f'add v6tov4 {tags} name="a \\"b\\" \\\\c #d" {options}']


def test_dump_prints_defaults_where_other_defaults_may_hold() -> None:
    (rule,) = made("v6tov4 80")
    (line,) = commands(rule, always=("maxconn", "deny"))
    assert line.endswith(" maxconn=off deny=off")
    (line,) = commands(rule, always=tuple(option.name for option in RULE_OPTIONS))
    assert config.read(None, [line]).config().rules == (rule,)
