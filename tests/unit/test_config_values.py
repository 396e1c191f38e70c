"""Values that a rule's keys do not take: every line says where, what, and what would be accepted."""

from __future__ import annotations

import pytest

from portproxy import config
from portproxy.errors import ConfigError
from portproxy.options import RULE_OPTIONS

RULE = '[[rule]]\ntype = "v6tov4"\nlistenport = 8080\n'
DURATION = "a duration is a number of seconds or like 250ms, 5s, 10m, 1h; "
PORT = "a port is a number from 1 to 65535 or a service name"

VALUES = [
    ("connecttimeout", '"5x"', DURATION + "from 1ms to 8760h"),
    ("connecttimeout", '"off"', DURATION + "from 1ms to 8760h"),
    ("connecttimeout", "0", DURATION + "from 1ms to 8760h"),
    ("connecttimeout", "nan", DURATION + "from 1ms to 8760h"),
    ("idletimeout", "inf", DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("idletimeout", "true", DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("idletimeout", '"8761h"', DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("idletimeout", "-1", DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("halfclosetimeout", '"5 s"', DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("halfclosetimeout", "1979-05-27", DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("maxlifetime", "[1]", DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("maxlifetime", "false", DURATION + 'from 1ms to 8760h, "off" or 0'),
    ("keepalive", '"500ms"', DURATION + 'from 1s to 32767s, "off" or 0'),
    ("usertimeout", '"597h"', DURATION + 'from 1ms to 596h, "off" or 0'),
    ("maxconn", "-1", 'a whole number from 1 to 1000000000, "off" or 0'),
    ("maxconn", "1.5", 'a whole number from 1 to 1000000000, "off" or 0'),
    ("maxconn", "false", 'a whole number from 1 to 1000000000, "off" or 0'),
    ("maxconnpersource", "[]", 'a whole number from 1 to 1000000000, "off" or 0'),
    ("backlog", "0", "a whole number from 1 to 65535"),
    ("backlog", "65536", "a whole number from 1 to 65535"),
    ("nodelay", "1", 'true or false; also "yes" or "no", "on" or "off"'),
    ("nodelay", '"maybe"', "true or false"),
    ("pipesize", '"2m"', "a size is a number of bytes or like 64k, 1m; from 64k to 1m"),
    ("pipesize", "4096", "a size is a number of bytes or like 64k, 1m; from 64k to 1m"),
    ("dataplane", '"sendfile"', "known are auto, splice, copy"),
    ("dataplane", '"slice"', "did you mean splice?"),
    ("dataplane", "1", "one of auto, splice, copy"),
    ("protocol", '"udp"', "UDP is not carried; tcp is the only protocol"),
    ("protocol", '"sctp"', "tcp is the only protocol"),
    ("name", '""', "a name is 1 to 128 printable characters, with no space at either end"),
    ("name", '" x"', "a name is 1 to 128 printable characters, with no space at either end"),
    ("name", "5", "a name is 1 to 128 printable characters, with no space at either end"),
    ("allow", '["fe80::/x"]', '"fe80::/x" is no prefix; a list of prefixes or addresses, like '),
    ("allow", '["10.0.0.0/255.0.0.0"]', '"10.0.0.0/255.0.0.0" is no prefix; a list of prefixes'),
    ("allow", "[5]", "5 is no prefix; a list of prefixes or addresses"),
    (
        "allow",
        "5",
        'a list of prefixes or addresses, like ["192.0.2.0/24", "198.51.100.7"]; '
        'also "192.0.2.0/24,198.51.100.7", or "off" for none',
    ),
    (
        "deny",
        '["2001:db8::1/32"]',
        '"2001:db8::1/32" has bits beyond its length; the prefix is 2001:db8::/32',
    ),
    ("deny", '["fe80::1%eth0"]', '"fe80::1%eth0" is no prefix; '),
    ("deny", '["10.0.0.0/8"]', "10.0.0.0/8 holds no client: v6tov4 listens on IPv6"),
    ("deny", '["::ffff:0:0/96"]', "holds no client: IPv4 clients come to a rule that listens on IPv4"),
    ("connectsource", '"::1"', 'v6tov4 connects to IPv4; type = "v6tov6" would take it'),
    ("connectsource", '"a.example"', 'an address of the family connected to, or "off"'),
    ("connectsource", '"0.0.0.0"', 'the unspecified address is no source; "off" lets the kernel choose one'),
    ("connectport", "0", f"0 is any port, which no client could know; {PORT}"),
    ("connectport", "65536", PORT),
    ("connectport", '"99999"', PORT),
    ("connectport", "true", PORT),
    ("connectport", '"no-such-service"', f"no TCP service of this name is known here; {PORT}"),
    ("connectport", '"a b"', PORT),
    ("connectaddress", '"::1"', 'v6tov4 connects to IPv4; type = "v6tov6" would take it'),
    ("connectaddress", '"::ffff:192.0.2.1"', 'is an IPv4 one; write "192.0.2.1" with type = "v6tov4"'),
    ("connectaddress", '"0.0.0.0"', "the unspecified address names no host; the local computer is 127.0.0.1"),
    ("connectaddress", '"::"', "the unspecified address names no host; the local computer is ::1"),
    (
        "connectaddress",
        '"224.0.0.1"',
        "a multicast or broadcast address carries no TCP; write a unicast address",
    ),
    ("connectaddress", '"255.255.255.255"', "a multicast or broadcast address carries no TCP"),
    ("connectaddress", '"*"', "an address of the family connected to"),
    ("connectaddress", '"127.1"', "or a host name"),
    ("connectaddress", '"0x7f.0x1"', "or a host name"),
    ("connectaddress", '"192.0.2.256"', "or a host name"),
    ("connectaddress", '"-a.example"', "or a host name"),
    ("connectaddress", '"a..example"', "or a host name"),
    ("connectaddress", '"b\u00fccher.example"', "or a host name"),
    ("connectaddress", '"a.example:x"', "or a host name"),
    (
        "connectaddress",
        '"a.example:80"',
        'a port has a key of its own; write "a.example" here, and 80 as connectport',
    ),
    (
        "connectaddress",
        '"[2001:db8::1]:80"',
        'a port has a key of its own; write "2001:db8::1" here, and 80 as connectport',
    ),
    ("connectaddress", '"[192.0.2.1]"', 'an address has no brackets here; write "192.0.2.1"'),
    ("connectaddress", '"a\\nb"', "or a host name"),
    ("listenaddress", '"192.0.2.1"', 'v6tov4 listens on IPv6; type = "v4tov4" would take it'),
    ("listenaddress", '"::ffff:192.0.2.1"', 'is an IPv4 one; write "192.0.2.1" with type = "v4tov4"'),
    ("listenaddress", '"ff02::1"', "a multicast or broadcast address carries no TCP"),
    ("listenaddress", '"fe80::1"', "a link-local address needs its interface, like fe80::1%eth0"),
    ("listenaddress", '"2001:db8::1%eth0"', "only a link-local address (fe80::/10) takes an interface"),
    ("listenaddress", '"fe80::1%0123456789abcdef"', "the interface after the % is its name or its number"),
    ("listenaddress", '"[::1]"', 'an address has no brackets here; write "::1"'),
    (
        "listenaddress",
        '"10.0.0.1:8080"',
        'a port has a key of its own; write "10.0.0.1" here, and 8080 as listenport',
    ),
    ("listenaddress", "[]", 'a host name, or "*" for any'),
]


@pytest.mark.parametrize(("key", "value", "accepted"), VALUES)
def test_a_value_that_is_not_accepted(key: str, value: str, accepted: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(f"{RULE}{key} = {value}\n", "portproxy.toml")
    (line,) = raised.value.lines
    place = "rule 1 ( x)" if value == '" x"' else "rule 1"
    assert line.startswith(f"portproxy.toml: {place}: {key} = {value}: ")
    assert accepted in line


def test_every_option_has_a_refused_value() -> None:
    assert {option.name for option in RULE_OPTIONS} <= {key for key, _, _ in VALUES}
