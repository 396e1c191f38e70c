"""6to4, ISATAP and automatic tunnelling against Linux's own ``sit``, in a guest kernel."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.package.namespaces import in_own_namespaces
from tests.peers import agent
from tests.peers.guest import Guest, booted, hindrance, serving

NET = "198.51.100."
NEAR = (f"{NET}1/24", f"{NET}9/24")
FAR = tuple(f"{NET}{host}/24" for host in (3, 2, 5))
SIZE = 1 << 20
PATIENCE = 30.0

TABLES = f"""
[[tunnel]]
name = "six"
type = "6to4"
localaddress = "{NET}1"
[[tunnel]]
name = "isa"
type = "isatap"
role = "router"
localaddress = "{NET}1"
prefix = ["2001:db8:71::/64"]
[[tunnel]]
name = "auto"
type = "v4compat"
localaddress = "{NET}1"
[[tunnel]]
name = "asks"
type = "isatap"
localaddress = "{NET}9"
router = ["{NET}5"]
"""
"""Three that share an address, and a host of the guest's own ISATAP link."""

RADVD = """
interface is1 {
  AdvSendAdvert on;
  UnicastOnly on;
  prefix 2001:db8:72::/64 { AdvOnLink on; AdvAutonomous on; };
};
"""


def script(directory: Path) -> str:
    """The guest's ends: ``sit`` devices, of which six is ::w.x.y.z too, and isatapd makes is0."""
    return f"""
sysctl -qw net.ipv6.conf.all.forwarding=1
ip tunnel add six mode sit remote any local {NET}2 ttl 64
ip link set six up
ip addr add 2002:c633:6402::1/16 dev six nodad
sysctl -qw net.ipv6.conf.default.accept_ra=2
ip tunnel add is1 mode isatap local {NET}5 ttl 64
ip link set is1 up
ip addr add 2001:db8:72::200:5efe:{NET}5/64 dev is1 nodad
mount -t tmpfs tmpfs /run
radvd -C {directory}/radvd.conf -p /run/radvd.pid -m logfile -l /run/radvd
isatapd -n is0 -l eth0 --user root -r {NET}1 >/run/isatapd.log 2>&1 &
"""


@pytest.fixture(autouse=True)
def _peer() -> None:
    if why := hindrance():
        pytest.skip(f"no kernel as a peer: {why}")
    for tool in ("isatapd", "radvd"):
        if not shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin"):
            pytest.skip(f"no {tool} on this machine")


@contextmanager
def connected(directory: Path) -> Iterator[Guest]:
    """The guest and this program with their tunnels, and an echo on both sides."""
    threading.Thread(target=agent.serve_echo, daemon=True).start()
    (directory / "radvd.conf").write_text(RADVD)
    agent.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
    with (
        booted(directory, NEAR, FAR) as guest,
        serving(directory / "portproxy.toml", TABLES, TABLES.count("[[tunnel]]")),
    ):
        guest.run(script(directory))
        yield guest


def until(run: Callable[[str], str], device: str, address: str) -> None:
    """``address`` has come to ``device``."""
    end = time.monotonic() + PATIENCE
    while address not in (said := run(f"ip -6 address show dev {device}")):
        assert time.monotonic() < end, said
        time.sleep(0.1)


PAIRS = {
    "6to4": ("2002:c633:6401::c633:6401", "2002:c633:6402::1"),
    "automatic": (f"::{NET}1", f"::{NET}2"),
    "ISATAP, our router": (f"2001:db8:71::200:5efe:{NET}1", f"2001:db8:71::200:5efe:{NET}3"),
    "ISATAP, the kernel's router": (f"2001:db8:72::200:5efe:{NET}9", f"2001:db8:72::200:5efe:{NET}5"),
    "ISATAP, link-local": (f"fe80::200:5efe:{NET}1%is0", f"fe80::200:5efe:{NET}3%isa"),
}
"""This side's address, as the guest writes it, and the guest's."""


def test_both_ways(tmp_path: Path) -> None:
    both_ways(str(tmp_path))


@in_own_namespaces
def both_ways(directory: str) -> None:
    """Ping, whole and in fragments, and TCP."""
    with connected(Path(directory)) as guest:
        until(guest.run, "is0", "2001:db8:71:0:200:5efe:c633:6403")
        until(agent.run, "asks", "2001:db8:72:0:200:5efe:c633:6409")
        for name, (near, far) in PAIRS.items():
            for size in ("56", "3000"):
                line = f"ping -n -c 3 -i 0.01 -w 10 -s {size}"
                for said in (agent.run(f"{line} {far}"), guest.run(f"{line} {near}")):
                    assert "3 received, 0% packet loss" in said, (name, said)
            if "%" not in far:
                for sent, received in (agent.exchange(far, SIZE), guest.ask("exchange", near, SIZE)):
                    assert sent == received, name
