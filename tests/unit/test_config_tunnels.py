"""``[[tunnel]]`` tables: what they become, and what is said of those that make none."""

from __future__ import annotations

import ipaddress

import pytest

from portproxy import config, table
from portproxy.errors import ConfigError
from portproxy.model import Config
from portproxy.options.tunnels import tags
from portproxy.reconcile import plan
from portproxy.tunnel.model import AUTO, Tunnel, TunnelRoute, TunnelType

SIX = '[[tunnel]]\nname = "he"\ntype = "v6v4tunnel"\nremoteaddress = "198.51.100.2"\n'
FOUR = '[[tunnel]]\nname = "ds"\ntype = "v4v6tunnel"\nremoteaddress = "2001:db8:f::2"\n'
AT_HOME = SIX + 'address = ["2001:db8:1::1/64", "fe80::1/64"]\n'
WHOLE = """
[[tunnel]]
name = "he"
type = "v6v4tunnel"
localaddress = "198.51.100.1"
remoteaddress = "198.51.100.2"
interface = "tun-he"
address = ["2001:db8:1::1/64"]
route = ["2001:db8:2::/48", "2001:db8:3::/48 via fe80::1"]
mtu = 1400
ttl = 8
mss = "clamp"
"""


def tunnels(text: str) -> tuple[Tunnel, ...]:
    return config.parse(text, "f.toml").tunnels


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "f.toml")
    return list(caught.value.lines)


def test_every_key() -> None:
    assert tunnels(WHOLE) == (
        Tunnel(
            name="he",
            type=TunnelType.V6V4TUNNEL,
            localaddress="198.51.100.1",
            remoteaddress="198.51.100.2",
            interface="tun-he",
            address=(ipaddress.ip_interface("2001:db8:1::1/64"),),
            route=(
                TunnelRoute(ipaddress.ip_network("2001:db8:2::/48")),
                TunnelRoute(ipaddress.ip_network("2001:db8:3::/48"), ipaddress.ip_address("fe80::1")),
            ),
            mtu=1400,
            ttl=8,
            mss=True,
        ),
    )


@pytest.mark.parametrize(("text", "mtu"), [(SIX, 1480), (FOUR, 1460)])
def test_defaults(text: str, mtu: int) -> None:
    (tunnel,) = tunnels(text)
    assert (tunnel.localaddress, tunnel.interface, tunnel.mtu) == (AUTO, tunnel.name, mtu)
    assert (tunnel.address, tunnel.route, tunnel.ttl) == ((), (), 64)
    assert (tunnel.mss, tunnel.encaplimit) == (False, None)


def test_auto_follows_the_path() -> None:
    assert tunnels(SIX + 'mtu = "auto"\n')[0].mtu is None


def test_no_tunnel_more_is_a_limit() -> None:
    assert tunnels(FOUR + "encaplimit = 0\n")[0].encaplimit == 0
    assert tunnels(FOUR + 'encaplimit = "off"\n')[0].encaplimit is None


def test_a_link_local_address_is_one_of_each_link() -> None:
    other = SIX.replace('"he"', '"b"').replace("100.2", "100.3") + 'address = ["fe80::1/64"]\n'
    assert len(tunnels(AT_HOME + other)) == 2


def test_addresses_are_held_as_the_kernel_writes_them() -> None:
    (tunnel,) = tunnels(FOUR.replace("2001:db8:f::2", "2001:DB8:F:0::2"))
    assert tunnel.remoteaddress == "2001:db8:f::2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SIX + "ttl = 0\n", "tunnel 1 (he): ttl = 0: a whole number from 1 to 255"),
        (SIX + "mtu = 1279\n", "mtu = 1279: v6v4tunnel takes 1280 to 65515"),
        (SIX + "mtu = 65516\n", "mtu = 65516: v6v4tunnel takes 1280 to 65515"),
        (FOUR + "mtu = 67\n", 'mtu = 67: bytes of a packet in the tunnel, at least 1280'),
        (FOUR + "mtu = 65496\n", "mtu = 65496: v4v6tunnel takes 68 to 65495"),
        (SIX + 'mtu = "big"\n', 'or "auto" to follow the path'),
        (SIX + 'mss = "on"\n', 'mss = "on": "clamp" or "off"'),
        (SIX + "encaplimit = 4\n", "encaplimit = 4: v6v4tunnel does not take it; v4v6tunnel does"),
        (SIX + 'address = ["192.0.2.1/24"]\n', "192.0.2.1/24: v6v4tunnel carries IPv6"),
        (SIX + 'address = ["2001:db8::1"]\n', "is no address with the length of its prefix"),
        (SIX + 'address = ["ff02::1/64"]\n', "is no address that an interface may have"),
        (FOUR + 'route = ["2001:db8::/32"]\n', "2001:db8::/32: v4v6tunnel carries IPv4"),
        (SIX + 'route = ["2001:db8::1/32"]\n', "that is a host's address; its prefix is 2001:db8::/32"),
        (SIX + 'route = ["2001:db8::/32 via 192.0.2.1"]\n', "the gateway is of the other family"),
        (SIX + 'route = [1]\n', "a list of prefixes, like"),
        (SIX + 'localaddress = "2001:db8::1"\n', "v6v4tunnel goes over IPv4"),
        (SIX + 'localaddress = "127.0.0.1"\n', "a tunnel ends at a unicast address, which is not"),
        (FOUR.replace("2001:db8:f::2", "ff02::1"), "a tunnel ends at a unicast address, which is not"),
        (SIX.replace("198.51.100.2", "255.255.255.255"), "0.0.0.0/8 and 240.0.0.0/4 are no host's"),
        (SIX.replace("198.51.100.2", "0.1.2.3"), "0.0.0.0/8 and 240.0.0.0/4 are no host's"),
        (SIX + 'localaddress = "240.0.0.1"\n', "0.0.0.0/8 and 240.0.0.0/4 are no host's"),
        (FOUR.replace("2001:db8:f::2", "fe80::1"), "every link has that address; write one that a route"),
        (SIX + 'localaddress = "198.51.100.2"\n', "it is localaddress as well; the other end is another"),
        (FOUR + 'localaddress = "2001:DB8:F:0::2"\n', "it is localaddress as well"),
        (FOUR.replace("2001:db8:f::2", "::ffff:192.0.2.1"), "write an IPv4 address as one"),
        (FOUR.replace("2001:db8:f::2", "198.51.100.2"), "v4v6tunnel goes over IPv6"),
        (SIX + 'interface = "a name too long for one"\n', "an interface's name is 1 to 15 characters"),
        (SIX + 'interface = "t%d"\n', "no space, slash, colon or %"),
        (SIX.replace('"he"', '"all"'), 'and not "all" or "default"'),
        (SIX + 'route = ["default"]\n', '"default" is no route; a list of prefixes, like'),
        (SIX + 'route = ["2001:db8::/48 via"]\n', '"2001:db8::/48 via" is no route'),
        (SIX + 'interface = ".."\n', "an interface's name is 1 to 15 characters"),
        (SIX.replace('"he"', '"Hurricane Electric"'), "the interface would be called so"),
        (SIX.replace("v6v4tunnel", "v6v4tunel"), "did you mean v6v4tunnel?"),
        (SIX + "color = 1\n", "color = 1: unknown key here"),
        ('[[tunnel]]\nname = "x"\ntype = "v6v4tunnel"\n', "remoteaddress is missing: an address, IPv4"),
        ("[tunnel]\nname = 1\n", "each tunnel is a table of its own, headed [[tunnel]]"),
        (SIX + SIX.replace("100.2", "100.3"), 'name = "he": f.toml: tunnel 1 (he) has this name already'),
        (SIX + SIX.replace('"he"', '"b"') + 'interface = "he"\n', "has this interface already"),
        (AT_HOME + AT_HOME.replace("he", "b").replace("100.2", "100.3"), "tunnel 1 (he) has this address"),
        (SIX + SIX.replace('"he"', '"b"'), "has these two ends already; what arrives could be either's"),
    ],
)  # fmt: skip
def test_what_makes_no_tunnel_is_said_in_a_line(text: str, told: str) -> None:
    lines = problems(text)
    assert any(told in line for line in lines), lines
    assert all(line.startswith("f.toml: ") and "\n" not in line for line in lines)


def test_all_problems_at_once() -> None:
    assert len(problems(SIX + "ttl = 0\nmtu = 1\n" + FOUR + 'mss = "x"\n')) == 3


def test_check_shows_them() -> None:
    shown = table.show(config.parse(WHOLE, "f.toml"))
    assert "he" in shown
    assert "route=2001:db8:2::/48,2001:db8:3::/48 via fe80::1 mtu=1400 ttl=8 mss=clamp" in shown


def test_what_says_nothing_is_not_shown() -> None:
    assert tags(tunnels(SIX)[0]) == ["interface=he", "mtu=1480", "ttl=64"]
    assert "mtu=auto" in tags(tunnels(SIX + 'mtu = "auto"\n')[0])


def of(*tunnels: Tunnel) -> Config:
    return Config(tunnels=tunnels)


def test_a_plan_keeps_changes_and_moves_tunnels() -> None:
    (six,), (four,) = tunnels(SIX), tunnels(FOUR)
    (wide,) = tunnels(SIX + "mtu = 1400\n")
    (elsewhere,) = tunnels(SIX + 'interface = "other"\n')
    assert plan(of(), of(six, four)).tunnels.start == (six, four)
    assert plan(of(six, four), of(four)).tunnels.stop == (six,)
    kept = plan(of(six, four), of(four, six)).tunnels
    assert kept.wanted == (four, six)
    assert (kept.keep, bool(kept)) == ((four, six), False)
    assert plan(of(six), of(wide)).tunnels.change == ((six, wide),)
    moved = plan(of(six), of(elsewhere)).tunnels
    assert (moved.stop, moved.start) == ((six,), (elsewhere,))


def test_a_plan_says_what_happens_to_tunnels_where_anything_does() -> None:
    (six,) = tunnels(SIX)
    assert str(plan(of(), of(six))).endswith("; of tunnels stop 0, keep 0, change 0, start 1")
    assert "tunnels" not in str(plan(of(six), of(six)))
