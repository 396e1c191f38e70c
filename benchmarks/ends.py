"""Every tunnel in its best configuration: what runs at each of its ends, as relays.py has relays.

An end's Place says what it is between: ``listen`` is its own address on the cable, ``connect`` its peer's;
the ports are those of a tunnel in UDP.
"""

from __future__ import annotations

from typing import ClassVar

from benchmarks.processes import written
from benchmarks.relays import Place, Portproxy, Relay, Socat, table
from benchmarks.targets import OURS, SOCAT_TUN

INTERFACE = "tun"
PORT = 9999
_SOCAT_MTU = 1472
"""What fits into 1500 with an IPv4 and a UDP header before it."""


class End(Relay):
    """``ready`` is in what it prints once it carries packets."""

    ready: ClassVar[str]

    def inside(self, address: str) -> str:
        """The address in the tunnel of the end whose address on the cable this is."""
        raise NotImplementedError


class SixInFour(End):
    """This relay's tunnel, with every check that it has, which are always on; 1480 is the MTU that fits."""

    name = OURS
    file = "portproxy.toml"
    ready = '"event": "ready"'

    def inside(self, address: str) -> str:
        return f"2001:db8:1::{_number(address)}"

    def version(self) -> str:
        return Portproxy().version()

    def configuration(self, place: Place) -> str:
        (local, _), (remote, _) = place.listen, place.connect
        server = {"status": "off", "control": str(place.directory / "control.sock"), "log": "json"}
        tunnel: dict[str, str | int | list[str]] = {
            "name": INTERFACE,
            "type": "v6v4tunnel",
            "localaddress": local,
            "remoteaddress": remote,
            "address": [f"{self.inside(local)}/64"],
            "mtu": 1480,
        }
        return "\n".join([table("[server]", server), table("[[tunnel]]", tunnel)])

    def words(self, place: Place) -> list[str]:
        return Portproxy().words(place)


class SocatTun(End):
    """A packet a datagram, without a check of anything.

    IPv6, which nobody asked for, would send before the other end listens, and be told so: socat ends then.
    """

    name = SOCAT_TUN
    package = Socat.package
    binary = Socat.binary
    ready = "starting data transfer loop"

    def inside(self, address: str) -> str:
        return f"192.0.2.{_number(address)}"

    def words(self, place: Place) -> list[str]:
        commands = (
            f"ip tuntap add {INTERFACE} mode tun",
            f"ip address add {self.inside(place.listen[0])}/24 dev {INTERFACE}",
            f"ip link set {INTERFACE} addrgenmode none mtu {_SOCAT_MTU} up",
            f"exec {self.binary} -d -d -b 65536 UDP4:{written(place.connect)},bind={written(place.listen)}"
            f" TUN,tun-name={INTERFACE},iff-no-pi",
        )
        return ["sh", "-c", " && ".join(commands)]


ENDS: dict[str, End] = {"portproxy, v6v4tunnel": SixInFour(), SocatTun.name: SocatTun()}
"""By the name that their configuration has beside the relays'."""


def _number(address: str) -> str:
    return address.rpartition(".")[2]
