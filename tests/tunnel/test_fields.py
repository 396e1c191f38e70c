"""How addresses and their parts are written and read, and what is said of those that are wrong."""

from __future__ import annotations

import pytest

from portproxy.tunnel.addresses import AddressError, decode, parse
from tests.tunnel.test_addresses import made

OTHERWISE = {
    "6to4 ipv4=192.0.2.33": "2002:c000:221::",
    "6to4 ipv4=192.0.2.33 interface=::192.0.2.33": "2002:c000:221::c000:221",
    "isatap prefix=fe80:: ipv4=192.168.12.9": "fe80::5efe:c0a8:c09",
    "isatap prefix=FE80:0::0/64 u=1 ipv4=203.0.113.1": "fe80::200:5efe:cb00:7101",
    "eui64 prefix=fe80::/64 mac=00-00-5E-00-53-01": "fe80::200:5eff:fe00:5301",
    "teredo server=65.54.227.120 port=040 client=192.0.2.45": "2001:0:4136:e378:0:ffd7:3fff:fdd2",
    "ula globalid=000000ABCD": "fd00:0:abcd::",
    "multicast scope=E group=::101": "ff0e::101",
    "discard low=::": "100::",
}
"""What may be typed, too -> the address."""


@pytest.mark.parametrize("line", OTHERWISE)
def test_a_part_may_be_written_otherwise(line: str) -> None:
    assert made(line) == OTHERWISE[line]


TEREDO = "teredo: {} is missing: {}"
WRONG: dict[str, list[str]] = {
    "teredo": [
        TEREDO.format("server", "an IPv4 address"),
        TEREDO.format("port", "a port, 0 to 65535"),
        TEREDO.format("client", "an IPv4 address"),
    ],
    "teredo server=1.2.3 flags=10000 port=65536 client=::1 colour=red": [
        'teredo: "colour": no such part; known are server, flags, port, client',
        'teredo: server = "1.2.3": an IPv4 address',
        'teredo: flags = "10000": 0 to ffff, hexadecimal',
        'teredo: port = "65536": a port, 0 to 65535',
        'teredo: client = "::1": an IPv4 address',
    ],
    "loopback interface=::1": ['loopback: "interface": no such part; it has none'],
    "multicast scope=10 group=1::": [
        'multicast: scope = "10": 0 to f, hexadecimal',
        'multicast: group = "1::": the last 112 bits of an IPv6 address, as ::1',
    ],
    "multicast scope=-1 group=::1%eth0": [
        'multicast: scope = "-1": 0 to f, hexadecimal',
        'multicast: group = "::1%eth0": the last 112 bits of an IPv6 address, as ::1',
    ],
    "ula globalid=\u0661 subnet=": [
        'ula: globalid = "\u0661": 0 to ffffffffff, hexadecimal',
        'ula: subnet = "": 0 to ffff, hexadecimal',
    ],
    "teredo server=192.0.2.1 port=\u0661 client=192.0.2.1": ['teredo: port = "\u0661": a port, 0 to 65535'],
    "eui64 prefix=fe80::1/64 mac=00:00:5e:00:53": [
        'eui64: prefix = "fe80::1/64": a prefix of 64 bits, as 2001:db8::/64',
        'eui64: mac = "00:00:5e:00:53": a MAC address, as 00:00:5e:00:53:01',
    ],
    "eui64 prefix=fe80::/65 mac=00:00-5e:00:53:01": [
        'eui64: prefix = "fe80::/65": a prefix of 64 bits, as 2001:db8::/64',
        'eui64: mac = "00:00-5e:00:53:01": a MAC address, as 00:00:5e:00:53:01',
    ],
    # Both would come to an address of that kind, but not to one of that prefix.
    "documentation prefix=::/64": [
        'documentation: prefix = "::/64": a prefix of 64 bits, as 2001:db8::/64, within 2001:db8::/32'
    ],
    "nat64-local prefix=64:ff9b::/96 ipv4=192.0.2.33": [
        'nat64-local: prefix = "64:ff9b::/96": a prefix of 96 bits, as 2001:db8::/96, within 64:ff9b:1::/48'
    ],
    # What another kind has.
    "global prefix=2002::/64": ["global: 2002:: is 6to4 (RFC 3056, 2)"],
    "v4compat ipv4=0.0.0.1": ["v4compat: ::1 is loopback (RFC 4291, 2.5.3)"],
    "6over4 ipv4=0.0.0.1": ["6over4: fe80::1 is link-local (RFC 4291, 2.5.6)"],
    "isatap prefix=ff02::/64 ipv4=192.0.2.33": ["isatap: ff02::5efe:c000:221 is multicast (RFC 4291, 2.7)"],
    "reserved bits=::ffff:192.0.2.33": ["reserved: ::ffff:192.0.2.33 is v4mapped (RFC 4291, 2.5.5.2)"],
}
"""What is typed -> every problem that it has."""


@pytest.mark.parametrize("line", WRONG)
def test_what_makes_no_address(line: str) -> None:
    with pytest.raises(AddressError) as raised:
        made(line)
    assert list(raised.value.lines) == WRONG[line]


WRITTEN = {
    "0:0:0:0:0:FFFF:C000:0221": "::ffff:192.0.2.33",
    "::c000:221": "::192.0.2.33",
    "64:ff9b::c000:221": "64:ff9b::192.0.2.33",
    "64:FF9B::": "64:ff9b::0.0.0.0",
    "::ffff:0:c000:221": "::ffff:0:192.0.2.33",
    "64:ff9b:1::192.0.2.33": "64:ff9b:1::c000:221",
    "fe80::5efe:192.0.2.33": "fe80::5efe:c000:221",
    "[2001:DB8::1]": "2001:db8::1",
    "fe80::1%eth0": "fe80::1",
    "[fe80::1%\x1b]": "fe80::1",
    "::": "::",
    "::1": "::1",
}
"""What is typed -> RFC 5952, dotted where the prefix is known for it (5)."""


@pytest.mark.parametrize("text", WRITTEN)
def test_an_address_is_written_as_rfc_5952_says(text: str) -> None:
    assert decode(parse(text)).text == WRITTEN[text]


ZONES = {
    "fe80::1": None,
    "fe80::1%eth0": "eth0",
    "[FE80::1%7]": "7",
    "ff02::1%Eth0": "Eth0",
    "fe80::1%\x1b": "\x1b",
}
"""What is typed -> the zone, which is any text there is."""


@pytest.mark.parametrize("text", ZONES)
def test_the_zone_is_kept_beside_the_address(text: str) -> None:
    decoded = decode(parse(text))
    assert (decoded.zone, "%" in decoded.text) == (ZONES[text], False)


NO_ADDRESS = "not an IPv6 address, such as 2001:db8::1"
UNREADABLE = {
    "": NO_ADDRESS,
    "[": NO_ADDRESS,
    "[]": NO_ADDRESS,
    " ": NO_ADDRESS,
    "]:80": NO_ADDRESS,
    "::g/64": NO_ADDRESS,
    "[::1": f"{NO_ADDRESS}; leave out the brackets",
    "::1]": f"{NO_ADDRESS}; leave out the brackets",
    "[[::1]]": f"{NO_ADDRESS}; leave out the brackets",
    "[::1]:80": f"{NO_ADDRESS}; leave out the port",
    "[::1]:http": f"{NO_ADDRESS}; leave out the port",
    "[fe80::1%eth0]:80": f"{NO_ADDRESS}; leave out the port",
    "[::1]/128": f"{NO_ADDRESS}; leave out the prefix length",
    " 2001:db8::1": f"{NO_ADDRESS}; leave out the spaces",
    "2001:db8:: 1 ": f"{NO_ADDRESS}; leave out the spaces",
    "fe80::1%eth0 ": f"{NO_ADDRESS}; leave out the spaces",
    " [::1]:80": f"{NO_ADDRESS}; leave out the spaces and the port",
    "fe80::1%": NO_ADDRESS,
    "1": NO_ADDRESS,
    "2001:db8:::1": NO_ADDRESS,
    "2001:db8::g": NO_ADDRESS,
    "::ffff:192.0.2.256": NO_ADDRESS,
    "2001:db8::1/64": f"{NO_ADDRESS}; leave out the prefix length",
    "192.0.2.33": "an IPv4 address; in IPv6 it is ::ffff:192.0.2.33",
    "[192.0.2.33]": "an IPv4 address; in IPv6 it is ::ffff:192.0.2.33",
}


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError) as raised:
        parse(text)
    assert raised.value.lines == (f'"{text}": {UNREADABLE[text]}',)
