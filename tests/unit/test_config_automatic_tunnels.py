"""``[[tunnel]]`` tables of the automatic types: 6to4, isatap, v4compat."""

from __future__ import annotations

import ipaddress
import re

import pytest

from portproxy import config, table
from portproxy.options.tunnels import tags
from portproxy.tunnel.model import AUTO, Role, Tunnel, TunnelType
from tests.unit.test_config_tunnels import SIX, problems, tunnels


def written(name: str, type_: str, *keys: str) -> str:
    return "\n".join(["[[tunnel]]", f'name = "{name}"', f'type = "{type_}"', *keys, ""])


SITE = written("site", "6to4")
ROUTER = SITE + 'role = "router"\n'
HOME = written("home", "isatap")
ADVERTISES = HOME + 'role = "router"\nprefix = '
HEAD_END = ADVERTISES + '["2001:db8:1::/64"]\n'
OLD = written("old", "v4compat")
HERE = 'localaddress = "198.51.100.1"\n'
PRIVATE = 'localaddress = "10.0.0.1"\n'


def renamed(text: str) -> str:
    return re.sub("name = .*", 'name = "b"', text)


def test_types_are_in_the_order_in_which_they_are_asked() -> None:
    assert [*TunnelType] == ["v6v4tunnel", "v4v6tunnel", "isatap", "6to4", "v4compat"]


@pytest.mark.parametrize(
    ("type_", "inner", "outer", "automatic"),
    [
        ("v6v4tunnel", 6, 4, False),
        ("v4v6tunnel", 4, 6, False),
        ("isatap", 6, 4, True),
        ("6to4", 6, 4, True),
        ("v4compat", 6, 4, True),
    ],
)
def test_families(type_: str, inner: int, outer: int, automatic: bool) -> None:
    found = TunnelType(type_)
    assert (found.inner, found.outer, found.automatic) == (inner, outer, automatic)


@pytest.mark.parametrize(("text", "routers"), [(SITE, ()), (HOME, ("isatap",)), (OLD, ())])
def test_a_name_and_a_type_are_enough(text: str, routers: tuple[str, ...]) -> None:
    (tunnel,) = tunnels(text)
    assert tunnel == Tunnel(
        tunnel.name, tunnel.type, AUTO, "", interface=tunnel.name, mtu=1280, router=routers, role=Role.HOST
    )


def test_every_key_of_a_6to4_router() -> None:
    keys = f'{HERE}relay = "relay.example"\nadvertise = ["eth1", "eth2"]\nmtu = 1480\n'
    (tunnel,) = tunnels(ROUTER + keys + 'address = ["2002:c633:6401::5/64"]\nprivate = true\n')
    assert tunnel == Tunnel(
        *("site", TunnelType.SIXTOFOUR, "198.51.100.1", "", "site"),
        address=(ipaddress.ip_interface("2002:c633:6401::5/64"),),
        mtu=1480,
        role=Role.ROUTER,
        relay="relay.example",
        advertise=("eth1", "eth2"),
        private=True,
    )
    assert str(tunnel) == "tunnel site: 6to4 198.51.100.1"


def test_an_isatap_router_advertises_and_knows_of_no_other() -> None:
    (tunnel,) = tunnels(HEAD_END)
    assert (tunnel.role, tunnel.router) == (Role.ROUTER, ())
    assert tunnel.prefix == (ipaddress.IPv6Network("2001:db8:1::/64"),)


def test_routers_are_names_and_addresses_or_none_at_all() -> None:
    (tunnel,) = tunnels(HOME + 'router = ["a.example", "10.40.1.1"]\n')
    assert tunnel.router == ("a.example", "10.40.1.1")
    (alone,) = tunnels(HOME + "router = []\n")
    assert alone.router == ()
    (beside,) = tunnels(HEAD_END + 'router = ["10.40.1.2"]\n')
    assert beside.router == ("10.40.1.2",)


@pytest.mark.parametrize("gateway", ["fe80::5efe:10.40.1.2", "fe80::200:5efe:198.51.100.2"])
def test_a_gateway_of_isatap_says_where_it_is(gateway: str) -> None:
    (tunnel,) = tunnels(HOME + f'route = ["2001:db8::/32 via {gateway}"]\n')
    assert tunnel.route[0].via == ipaddress.ip_address(gateway)


@pytest.mark.parametrize("text", [SITE, HOME, OLD])
def test_what_goes_in_needs_no_gateway(text: str) -> None:
    assert str(tunnels(text + 'route = ["2001:db8::/32"]\n')[0].route[0]) == "2001:db8::/32"


@pytest.mark.parametrize(
    ("relay", "held"),
    [
        ("relay.example", "relay.example"),
        ("198.51.100.9", "198.51.100.9"),
        ("2002:c633:6409::1", "198.51.100.9"),
        ("auto", "auto"),
        ("off", None),
    ],
)
def test_a_relay_is_a_name_or_an_ipv4_address(relay: str, held: str | None) -> None:
    assert tunnels(f'{SITE}localaddress = "auto"\nrelay = "{relay}"\n')[0].relay == held


@pytest.mark.parametrize("relay", ["192.88.99.1", "2002:c058:6301::"])
def test_the_anycast_relay_is_taken_with_a_warning(relay: str) -> None:
    made = config.parse(f'{SITE}relay = "{relay}"\n', "f.toml")
    assert made.tunnels[0].relay == "192.88.99.1"
    (warning,) = made.warnings
    assert warning.startswith('f.toml: tunnel 1 (site): relay = "192.88.99.1": ')
    assert "RFC 7526 deprecated it" in warning


@pytest.mark.parametrize("text", [SITE, OLD])
def test_addresses_that_are_not_public_are_for_a_lab(text: str) -> None:
    assert tunnels(text + PRIVATE + "private = true\n")[0].private
    assert not tunnels(text + HERE)[0].private


def test_isatap_is_at_home_in_private_addresses() -> None:
    assert tunnels(HOME + PRIVATE)[0].localaddress == "10.0.0.1"


def test_tunnels_of_several_types_share_an_address() -> None:
    six = SIX + HERE
    assert len(tunnels(SITE + HERE + HOME + HERE + OLD + HERE + six)) == 4


def test_two_of_a_type_have_an_address_each() -> None:
    other = renamed(SITE) + 'localaddress = "198.51.100.2"\n'
    assert len(tunnels(SITE + HERE + other)) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SITE + 'remoteaddress = "198.51.100.2"\n', "6to4 does not take it; did you mean relay?"),
        (SITE + 'router = ["a.example"]\n', "6to4 does not take it; did you mean relay?"),
        (ROUTER + 'prefix = ["2001:db8::/64"]\n', "6to4 does not take it; did you mean advertise?"),
        (HOME + 'remoteaddress = "198.51.100.2"\n', "isatap does not take it; did you mean router?"),
        (HOME + 'relay = "a.example"\n', "isatap does not take it; did you mean router?"),
        (HEAD_END + 'advertise = ["eth1"]\n', "isatap does not take it; did you mean prefix?"),
        (HOME + "private = true\n", "isatap does not take it; 6to4 and v4compat do"),
        (OLD + 'remoteaddress = "198.51.100.2"\n', "it; v6v4tunnel and v4v6tunnel do"),
        (OLD + 'role = "router"\n', "v4compat does not take it; isatap and 6to4 do"),
        (OLD + "encaplimit = 4\n", "v4compat does not take it; v4v6tunnel does"),
        (SIX + 'role = "router"\n', "v6v4tunnel does not take it; isatap and 6to4 do"),
        (SIX + 'relay = "a.example"\n', "v6v4tunnel does not take it; did you mean remoteaddress?"),
        (HOME + 'routers = ["a.example"]\n', "unknown key here; did you mean router?"),
        (SITE + 'routers = ["a.example"]\n', "unknown key here; did you mean route?"),
        (SITE + 'role = "server"\n', 'role = "server": known are host, router, relay'),
        (SITE + 'role = "server"\nadvertise = ["eth1"]\n', 'role = "server": known are host'),
        (HOME + 'role = "relay"\n', 'role = "relay": isatap has no relays; host or router'),
        (HOME + 'prefix = ["2001:db8::/64"]\n', "the role host does not take it; router does"),
        (SITE + 'advertise = ["eth1"]\n', "the role host does not take it; router does"),
        (SITE + 'role = "relay"\nrelay = "a.example"\n', "relay does not take it; host and router do"),
        (HOME + 'role = "router"\n', "prefix is missing: a list of IPv6 prefixes, each a /64"),
        (ADVERTISES + '[]\n', "prefix = []: a router needs one; a list of IPv6 prefixes"),
        (ADVERTISES + '["2001:db8::/48"]\n', '"2001:db8::/48": its hosts\' identifiers are'),
        (ADVERTISES + '["2001:db8::%e/64"]\n', "so it is to be a /64"),
        (ADVERTISES + '["2001:db8::1/64"]\n', '"2001:db8::1/64": 2001:db8::1/64 has host'),
        (ADVERTISES + '["fe80::/64"]\n', '"fe80::/64": no host takes an address of this'),
        (ADVERTISES + '["ff05::/64"]\n', '"ff05::/64": no host takes an address of this'),
        (ADVERTISES + '["::/64"]\n', '"::/64": no host takes an address of this'),
        (HOME + 'router = ["not a name"]\n', '"not a name": a list of host names and IPv4 addresses'),
        (HOME + 'router = ["224.0.0.1"]\n', '"224.0.0.1": a tunnel ends at a unicast address'),
        (HOME + 'router = ["255.255.255.255"]\n', '"255.255.255.255": a tunnel ends at a unicast address; '),
        (HOME + HERE + 'router = ["a.example", "198.51.100.1"]\n', "localaddress is there as well; a router"),
        (HOME + 'router = ["2001:db8::1"]\n', '"2001:db8::1": a router is asked over IPv4'),
        (SITE + 'relay = "not a name"\n', "a host name, an IPv4 address or a 6to4 address (2002::/16)"),
        (SITE + 'relay = "2001:db8::1"\n', "that is no 6to4 address (2002::/16)"),
        (SITE + 'relay = "2002:7f00:1::1"\n', "a tunnel ends at a unicast address, which is not"),
        (SITE + 'private = true\nrelay = "255.255.255.255"\n', "0.0.0.0/8 and 240.0.0.0/4 are no host's"),
        (SITE + 'private = true\nrelay = "2002:f000:1::1"\n', "0.0.0.0/8 and 240.0.0.0/4 are no host's"),
        (SITE + 'relay = "10.0.0.1"\n', 'relay = "10.0.0.1": 6to4 needs public IPv4 addresses; in a lab'),
        (SITE + HERE + 'relay = "198.51.100.1"\n', "it is localaddress as well; the relay is another host"),
        (SITE + PRIVATE, 'localaddress = "10.0.0.1": 6to4 needs public IPv4 addresses; in a lab'),
        (OLD + PRIVATE, 'localaddress = "10.0.0.1": v4compat needs public IPv4 addresses'),
        (SITE + 'localaddress = "2001:db8::1"\n', "6to4 goes over IPv4"),
        (SITE + 'address = ["192.0.2.1/24"]\n', "192.0.2.1/24: 6to4 carries IPv6"),
        (HOME + 'route = ["2001:db8::/32 via fe80::1"]\n', "fe80::1: a gateway has an ISATAP address"),
        (HOME + 'route = ["::/0 via fe80::5efe:255.255.255.255"]\n', "a gateway has an ISATAP address, like"),
        (SITE + 'route = ["::/0 via 2002:c633:6409::1"]\n', "::/0 via 2002:c633:6409::1: 6to4 goes by the"),
        (OLD + 'route = ["::/0 via fe80::5efe:10.0.0.1"]\n', "v4compat goes by the packet's destination"),
        (ROUTER + 'advertise = ["lo"]\n', "nobody is behind lo; name interfaces inside the site"),
        (
            ROUTER + HERE + 'advertise = ["eth1"]\n' + renamed(ROUTER) + 'advertise = ["eth1"]\n',
            "tunnel 1 (site) advertises there already",
        ),
        (ROUTER + 'advertise = ["eth1", "eth1"]\n', "one interface is there twice; each gets one subnet"),
        (ROUTER + 'advertise = ["site"]\n', "the tunnel's own interface is there"),
        (ROUTER + 'advertise = ["a b"]\n', "a list of interfaces' names, like"),
        (SITE + 'mtu = "auto"\n', 'mtu = "auto": it has many peers, each at the end of another path'),
        (HOME + 'mtu = "auto"\n', "1280 suits any"),
        (OLD + 'mtu = "auto"\n', "1280 suits any"),
        (OLD + "mtu = 1279\n", "mtu = 1279: v4compat takes 1280 to 65515"),
        (SITE + renamed(SITE), 'localaddress = "auto": f.toml: tunnel 1 (site) is 6to4 on this'),
        (HOME + HERE + renamed(HOME) + HERE, "tunnel 1 (home) is isatap on this address already"),
        (OLD + HERE + renamed(OLD) + HERE, "tunnel 1 (old) is v4compat on this address already"),
    ],
)  # fmt: skip
def test_what_makes_no_tunnel_is_said_in_a_line(text: str, told: str) -> None:
    (line,) = problems(text)
    assert told in line
    assert line.startswith("f.toml: tunnel ")


def test_a_router_may_be_among_all_routers() -> None:
    assert tunnels(HEAD_END + HERE + 'router = ["198.51.100.1", "198.51.100.2"]\n')
    assert tunnels(HOME + 'router = ["auto"]\n'), "that is a name there"


def test_without_a_type_every_key_is_known() -> None:
    text = '[[tunnel]]\nname = "x"\nrouter = ["a.example"]\nremoteaddress = "198.51.100.2"\n'
    (line,) = problems(text)
    assert line.startswith("f.toml: tunnel 1 (x): type is missing: one of v6v4tunnel, v4v6tunnel, isatap, ")


def test_check_shows_them() -> None:
    shown = table.show(config.parse(ROUTER + HERE + 'relay = "a.example"\nadvertise = ["eth1"]\n', "f.toml"))
    assert "role=router relay=a.example advertise=eth1 interface=site mtu=1280 ttl=64" in shown


def test_what_a_type_does_not_take_is_not_shown() -> None:
    assert tags(tunnels(OLD)[0]) == ["interface=old", "mtu=1280", "ttl=64"]
    assert tags(tunnels(HOME)[0]) == ["role=host", "router=isatap", "interface=home", "mtu=1280", "ttl=64"]
    assert tags(tunnels(SITE + 'role = "relay"\n')[0])[:2] == ["role=relay", "interface=site"]
