"""What is told of tunnels: tables, JSON, metrics, readiness, plans."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace

import msgspec
import pytest

from portproxy import __version__, counters
from portproxy.cli.changing import finish
from portproxy.config import parse
from portproxy.handlers import health_reply, kept_lines, plan_lines, unchanged
from portproxy.metrics import render
from portproxy.model import Config, Endpoint, Rule, RuleType
from portproxy.reconcile import plan
from portproxy.report import status_data
from portproxy.report import status_text as relay_status_text
from portproxy.snapshot import RuleState, RuleStatus, Snapshot, TunnelState, TunnelStatus
from portproxy.table import show
from portproxy.tunnel.model import AUTO, Role, Tunnel, TunnelRoute, TunnelType
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.report import TunnelsData, show_text, status_text, tunnels_data
from portproxy.wire.control_frames import Reply, encode

HE = Tunnel(
    "he",
    TunnelType.V6V4TUNNEL,
    AUTO,
    "198.51.100.2",
    "tun-he",
    address=(ipaddress.ip_interface("2001:db8:1::1/64"),),
    mtu=1480,
)
NONE = {reason.value: 0 for reason in Dropped}
UP = TunnelStatus(
    HE, TunnelState.UP, "", "198.51.100.1", 1480, 3, 1500, 2, 999, NONE | {"source": 7, "ecn": 1}
)
FAILED = TunnelStatus(HE, TunnelState.FAILED, "there is no route", "", 0, 0, 0, 0, 0, NONE)


def snapshot(*tunnels: TunnelStatus) -> Snapshot:
    return Snapshot((), 0, {}, False, tunnels=tunnels)


def test_status() -> None:
    assert status_text(tunnels_data([UP])).splitlines() == [
        "tunnel  state  local         remote        mtu   packets in  out  in      out    dropped",
        "he      up     198.51.100.1  198.51.100.2  1480  3           2    1.5 kB  999 B  8",
        "",
        "he dropped: 7 source, 1 ecn",
    ]


def test_every_line_below_the_table_says_what_it_is() -> None:
    lost = replace(status_of(SITE), last_error="relay.example: no such name", drops=NONE | {"no-router": 2})
    below = status_text(tunnels_data([lost, FAILED])).splitlines()[4:]
    assert below == [
        "site error: relay.example: no such name",
        "site settings: type=6to4 role=router relay=relay.example",
        "site dropped: 2 no-router",
        "he error: there is no route",
    ]


def test_status_of_one_that_fails() -> None:
    _, row, _, why = status_text(tunnels_data([FAILED])).splitlines()
    assert row.split() == ["he", "failed", "-", "198.51.100.2", "-", "0", "0", "0", "B", "0", "B", "0"]
    assert why == "he error: there is no route"


def test_show_leaves_out_what_says_nothing() -> None:
    _, row = show_text(tunnels_data([UP])).splitlines()
    assert row.split() == [
        "he",
        "v6v4tunnel",
        "auto",
        "198.51.100.2",
        "interface=tun-he",
        'address=["2001:db8:1::1/64"]',
        "mtu=1480",
        "ttl=64",
    ]


@pytest.mark.parametrize("told", [show_text, status_text])
def test_no_tunnels(told: object) -> None:
    assert callable(told)
    assert told(tunnels_data([])) == "no tunnels"


def status_of(tunnel: Tunnel) -> TunnelStatus:
    return TunnelStatus(tunnel, TunnelState.UP, "", "198.51.100.1", 1280, 0, 0, 0, 0, NONE)


SITE = Tunnel(
    *("site", TunnelType.SIXTOFOUR, "198.51.100.1", "", "tun-site"),
    mtu=1280,
    role=Role.ROUTER,
    relay="relay.example",
    advertise=("eth1",),
)
HOME = Tunnel("home", TunnelType.ISATAP, AUTO, "", "tun-home", mtu=1280, router=("isatap", "10.40.1.1"))
COMPATIBLE = Tunnel("old", TunnelType.V4COMPAT, AUTO, "", "tun-old", mtu=1280, private=True)


@pytest.mark.parametrize(
    ("tunnel", "row", "note"),
    [
        (
            SITE,
            'site 6to4 198.51.100.1 - role=router relay=relay.example advertise=["eth1"] interface=tun-site',
            "site settings: type=6to4 role=router relay=relay.example",
        ),
        (
            HOME,
            'home isatap auto - role=host router=["isatap", "10.40.1.1"] interface=tun-home',
            'home settings: type=isatap role=host router=["isatap", "10.40.1.1"]',
        ),
        (COMPATIBLE, "old v4compat auto - private=true interface=tun-old", None),
    ],
)
def test_what_an_automatic_tunnel_has_instead_of_a_remote_address(
    tunnel: Tunnel, row: str, note: str | None
) -> None:
    data = tunnels_data([status_of(tunnel)])
    _, shown = show_text(data).splitlines()
    assert shown.split() == f"{row} mtu=1280 ttl=64".split()
    _, does, *notes = status_text(data).splitlines()
    assert does.split()[:5] == [tunnel.name, "up", "198.51.100.1", "-", "1280"]
    assert notes == (["", note] if note else [])


def test_the_settings_are_those_that_the_type_and_the_role_take() -> None:
    site, home, old = (
        one["settings"] for one in tunnels_data(map(status_of, (SITE, HOME, COMPATIBLE)))["tunnels"]
    )
    every = {"name", "type", "localaddress", "interface", "address", "route", "mtu", "ttl", "mss"}
    assert site.keys() == every | {"role", "relay", "advertise", "private"}
    assert home.keys() == every | {"role", "router"}
    assert old.keys() == every | {"private"}


def test_json_has_every_setting_and_the_reasons_that_occurred() -> None:
    (data,) = tunnels_data([UP])["tunnels"]
    assert data["dropped"] == {"source": 7, "ecn": 1}
    assert data["settings"] == {
        "name": "he",
        "type": "v6v4tunnel",
        "remoteaddress": "198.51.100.2",
        "localaddress": "auto",
        "interface": "tun-he",
        "address": ["2001:db8:1::1/64"],
        "route": [],
        "mtu": 1480,
        "ttl": 64,
        "mss": "off",
    }


FOUR = Tunnel("four", TunnelType.V4V6TUNNEL, "2001:db8::1", "2001:db8::2", "four", mtu=None, mss=True)
OUT = replace(
    HOME,
    name="out",
    role=Role.ROUTER,
    router=(),
    prefix=(ipaddress.IPv6Network("2001:db8:1::/64"),),
    route=(TunnelRoute(ipaddress.IPv6Network("2001:db8::/48"), ipaddress.IPv6Address("fe80::5efe:a28:101")),),
)


@pytest.mark.parametrize(
    "tunnel",
    [HE, SITE, HOME, COMPATIBLE, FOUR, replace(FOUR, encaplimit=0, ttl=1), OUT],
    ids=str,
)
def test_settings_are_values_that_a_file_may_have(tunnel: Tunnel) -> None:
    reply = encode(Reply(True, "", dict(tunnels_data([status_of(tunnel)]))))
    (data,) = msgspec.convert(json.loads(reply[4:])["data"], TunnelsData)["tunnels"]
    lines = [f"{name} = {json.dumps(value)}" for name, value in data["settings"].items()]
    assert parse("\n".join(["[[tunnel]]", *lines]), "here").tunnels == (tunnel,)


@pytest.mark.parametrize(
    ("tunnel", "name", "value"),
    [
        (SITE, "advertise", ["eth1"]),
        (SITE, "private", False),
        (COMPATIBLE, "private", True),
        (HE, "mtu", 1480),
        (FOUR, "mtu", "auto"),
        (FOUR, "mss", "clamp"),
        (FOUR, "encaplimit", "off"),
        (replace(FOUR, encaplimit=0), "encaplimit", 0),
        (OUT, "route", ["2001:db8::/48 via fe80::5efe:a28:101"]),
    ],
)
def test_a_setting_has_the_type_of_the_file(tunnel: Tunnel, name: str, value: object) -> None:
    (data,) = tunnels_data([status_of(tunnel)])["tunnels"]
    assert (data["settings"][name], type(data["settings"][name])) == (value, type(value))


def test_what_another_relay_says_is_no_terminal_control() -> None:
    """Whoever listens on the control socket need not be a relay of ours."""
    hostile = "\x1b[2J\n"
    data = tunnels_data([replace(status_of(SITE), last_error="x", drops={hostile: 1})])
    (one,) = data["tunnels"]
    one["settings"].update(dict.fromkeys(one["settings"], hostile) | {"advertise": [hostile]})
    one.update({"name": hostile, "last_error": hostile, "state": hostile, "local": hostile})
    for told in (show_text, status_text):
        assert all(line.isprintable() for line in told(data).splitlines())


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (UP, 'portproxy_tunnel_up{tunnel="he"} 1.0'),
        (FAILED, 'portproxy_tunnel_up{tunnel="he"} 0.0'),
        (UP, 'portproxy_tunnel_mtu_bytes{tunnel="he"} 1480.0'),
        (UP, 'portproxy_tunnel_packets_total{direction="in",tunnel="he"} 3.0'),
        (UP, 'portproxy_tunnel_packets_total{direction="out",tunnel="he"} 2.0'),
        (UP, 'portproxy_tunnel_bytes_total{direction="in",tunnel="he"} 1500.0'),
        (UP, 'portproxy_tunnel_bytes_total{direction="out",tunnel="he"} 999.0'),
        (UP, 'portproxy_tunnel_dropped_packets_total{reason="source",tunnel="he"} 7.0'),
        (UP, 'portproxy_tunnel_dropped_packets_total{reason="too-big",tunnel="he"} 0.0'),
    ],
)
def test_metrics(status: TunnelStatus, line: str) -> None:
    assert line in render(snapshot(status))[0].decode().splitlines()


def test_every_reason_is_in_the_metric() -> None:
    text = render(snapshot(UP))[0].decode()
    assert all(f'reason="{reason}"' in text for reason in Dropped)


def test_a_relay_without_tunnels_has_no_metric_of_them() -> None:
    assert b"tunnel" not in render(snapshot())[0]


def test_it_is_ready_once_every_tunnel_is_up() -> None:
    counts = {"listening": 0, "sessions": 0}
    assert health_reply(snapshot(UP)) == Reply(True, "1 tunnel up", counts | {"tunnels_up": 1})
    failed = Reply(False, "tunnel he: there is no route", counts | {"tunnels_up": 1})
    assert health_reply(snapshot(UP, FAILED)) == failed


RULE = RuleStatus(
    Rule(RuleType.V6TOV4, Endpoint("*", 80), Endpoint("127.0.0.1", 80), "web"),
    RuleState.LISTENING,
    "",
    counters.new_block(),
)


def test_health_speaks_of_what_there_is() -> None:
    both = replace(snapshot(UP, UP), rules=(RULE,))
    assert health_reply(both).text == "1 rule listening, 0 sessions, 2 tunnels up"


def test_the_relays_status_counts_tunnels() -> None:
    see = "see `portproxy tunnel status`"
    data = status_data(replace(snapshot(UP, FAILED, UP), rules=(RULE,), uptime=60.0))
    assert data["tunnels"] == {"up": 2, "failed": 1}
    head, note, *table = relay_status_text(data, None, 1.0).splitlines()
    assert head == f"portproxy {__version__}, up 1m00s: 1 rule, 0 sessions"
    assert note == f"tunnels: 2 up, 1 failed; {see}"
    assert len(table) == 3
    data = status_data(replace(snapshot(UP), uptime=60.0))
    assert relay_status_text(data, None, 1.0) == (f"portproxy {__version__}, up 1m00s\ntunnels: 1 up; {see}")
    assert relay_status_text(status_data(snapshot(FAILED)), None, 1.0).endswith(f"\ntunnels: 1 failed; {see}")
    assert "tunnel" not in relay_status_text(status_data(snapshot()), None, 1.0)


def test_check_shows_what_there_is() -> None:
    head, row, _, server, *_ = show(Config(tunnels=(HE,))).splitlines()
    assert head.split()[0] == "tunnel"
    assert row.split()[:4] == ["he", "v6v4tunnel", "auto", "198.51.100.2"]
    assert server.startswith("server: ")
    both = show(Config(rules=(RULE.rule,), tunnels=(HE,))).splitlines()
    assert [line.split()[0] for line in both if line] == ["rule", "web", "tunnel", "he", "server:"]
    assert show(Config()).splitlines()[0].split()[0] == "rule"


def test_a_plan_names_tunnels_and_what_changes() -> None:
    narrow = Tunnel("he", HE.type, "198.51.100.1", HE.remoteaddress, HE.interface, HE.address, mtu=None)
    assert plan_lines(plan(Config(tunnels=(HE,)), Config(tunnels=(narrow,)))) == [
        "change  tunnel he: localaddress auto -> 198.51.100.1; mtu 1480 -> auto"
    ]
    assert plan_lines(plan(Config(tunnels=(HE,)), Config())) == ["stop    tunnel he"]
    assert plan_lines(plan(Config(), Config(tunnels=(HE,)))) == [
        "start   tunnel he: v6v4tunnel auto -> 198.51.100.2"
    ]
    assert plan_lines(plan(Config(), Config(tunnels=(SITE,)))) == ["start   tunnel site: 6to4 198.51.100.1"]


def test_a_plan_without_steps_speaks_of_what_there_is() -> None:
    said = "nothing that runs changes"
    only, both = Config(tunnels=(HE,)), Config(rules=(RULE.rule,), tunnels=(HE,))
    assert [unchanged(plan(config, config)) for config in (only, both)] == [said, said]
    assert unchanged(plan(Config(), Config())) == "no rule that listens changes"


def test_a_plan_of_many_tunnels_counts_the_rest() -> None:
    many = tuple(replace(HE, name=f"t{number}", interface=f"t{number}") for number in range(22))
    assert plan_lines(plan(Config(tunnels=many), Config()))[19:] == [
        "stop    tunnel t19",
        "stop    2 tunnels more",
    ]
    kept = plan(Config(tunnels=many), Config(tunnels=many[:2]))
    assert kept_lines(kept) == ["keep    2 tunnels"]
    assert kept_lines(plan(Config(), Config(tunnels=many))) == ["keep    0 tunnels"]
    assert kept_lines(plan(Config(), Config())) == ["keep    0 rules"]
    before, after = Config(rules=(RULE.rule,), tunnels=many), Config(rules=(RULE.rule,), tunnels=many[:2])
    assert kept_lines(plan(before, after)) == ["keep    1 rule", "keep    2 tunnels"]


def test_a_rule_is_not_taken_for_the_tunnel_that_it_is_called_like(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = {"not_listening": {"tunnel he": "in use"}, "not_up": {"he": "no route"}}
    with pytest.raises(SystemExit) as ended:
        finish(Reply(False, "", {"refused": {}, "warnings": [], **failed}))
    assert ended.value.code == 1
    rule, tunnel = capsys.readouterr().err.splitlines()
    assert rule.startswith("tunnel he does not listen: in use; ")
    assert tunnel.startswith("tunnel he is not up: no route; ")
