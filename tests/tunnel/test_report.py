"""What is told of tunnels: tables, JSON, metrics, readiness, plans."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from portproxy.cli.changing import finish
from portproxy.handlers import health_reply, kept_lines, plan_lines
from portproxy.metrics import render
from portproxy.model import Config
from portproxy.reconcile import plan
from portproxy.snapshot import Snapshot, TunnelState, TunnelStatus
from portproxy.tunnel.model import AUTO, Role, Tunnel, TunnelType
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.report import show_text, status_text, tunnels_data
from portproxy.wire.control_frames import Reply

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


def test_status_of_one_that_fails() -> None:
    _, row, _, why = status_text(tunnels_data([FAILED])).splitlines()
    assert row.split() == ["he", "failed", "-", "198.51.100.2", "-", "0", "0", "0", "B", "0", "B", "0"]
    assert why == "he: there is no route"


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
            "site: 6to4 role=router relay=relay.example",
        ),
        (
            HOME,
            'home isatap auto - role=host router=["isatap", "10.40.1.1"] interface=tun-home',
            'home: isatap role=host router=["isatap", "10.40.1.1"]',
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
        "address": '["2001:db8:1::1/64"]',
        "route": "[]",
        "mtu": "1480",
        "ttl": "64",
        "mss": "off",
    }


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
    assert health_reply(snapshot(UP)).ok
    reply = health_reply(snapshot(FAILED))
    assert (reply.ok, reply.text) == (False, "tunnel he: there is no route")


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


def test_a_plan_of_many_tunnels_counts_the_rest() -> None:
    many = tuple(replace(HE, name=f"t{number}", interface=f"t{number}") for number in range(22))
    assert plan_lines(plan(Config(tunnels=many), Config()))[19:] == [
        "stop    tunnel t19",
        "stop    2 tunnels more",
    ]
    kept = plan(Config(tunnels=many), Config(tunnels=many[:2]))
    assert kept_lines(kept) == ["keep    0 rules", "keep    2 tunnels"]
    assert kept_lines(plan(Config(), Config())) == ["keep    0 rules"]


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
