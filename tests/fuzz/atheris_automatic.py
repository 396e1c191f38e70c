"""What ``run_atheris`` fuzzes of automatic tunnels: both sides of each mode, and what a router is asked.

Lengths and sums are made right: no search finds them, and a packet that has them wrong is only refused.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv6Address
from itertools import cycle
from random import Random

from portproxy.tunnel.effects import Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.automatic import Embedding
from portproxy.tunnel.packet import ipv6
from portproxy.tunnel.packet.discovery import Mtu
from tests.fuzz import test_advertiser, test_automatic_modes, test_discovery, test_isatap
from tests.fuzz.target import Target, joined, pieces
from tests.fuzz.test_automatic_modes import EXTENSIONS, KINDS, OUTER, SYN, Kind
from tests.fuzz.test_discovery import summed
from tests.fuzz.test_tunnel_packets import fitted
from tests.tunnel.test_advertiser import SOLICITATION
from tests.tunnel.test_isatap_host import advert, prefix


def _mode(kind: Kind, choice: int) -> tuple[Embedding, bool]:
    """It, and whether private addresses pass."""
    private = bool(choice & 1)
    return kind.make(private=private, clamp_mss=bool(choice & 2)), private


def _end(choice: int, address: bytes) -> str:
    """The IPv4 address of the end that an inner address is behind, or another."""
    if choice < len(OUTER) or len(address) < 16:
        return OUTER[choice % len(OUTER)]
    return test_automatic_modes.behind(address)


def _arrives(kind: Kind, data: bytes) -> None:
    """What the mode is, the outer TOS, and whose it is; then the packet."""
    if len(data) >= 3:
        (tested, private), packet = _mode(kind, data[0]), fitted(data[3:])
        source = Source(_end(data[2], packet[8:24]), 0, data[1])
        test_automatic_modes.arrives(kind, tested, packet, source, private=private)


def _is_sent(kind: Kind, data: bytes) -> None:
    """What the mode is; then the packet."""
    if data:
        tested, private = _mode(kind, data[0])
        test_automatic_modes.is_sent(kind, tested, fitted(data[1:]), 0.0, private=private)


def _is_reported(kind: Kind, data: bytes) -> None:
    """What the mode is, type, code, two bytes of an MTU, and about whom it is; then what is quoted. It comes
    twice; then that is sent."""
    if len(data) < 6:
        return
    (tested, private), quoted = _mode(kind, data[0]), fitted(data[6:])
    mtu, to = int.from_bytes(data[3:5]), _end(data[5], quoted[24:40])
    heard = WireError(data[1], data[2], mtu, "", quoted, to)
    test_automatic_modes.is_reported(kind, tested, [heard, heard], quoted, private=private)


def _between(kind: Kind) -> list[bytes]:
    """Packets that pass in one of the directions."""
    ends = [(near, far) for near in kind.near for far in kind.far]
    pairs = [tuple(IPv6Address(one).packed for one in way) for pair in ends for way in (pair, pair[::-1])]
    others = [ipv6.build(one, other, kind, bytes(24)) for kind in (17, *EXTENSIONS) for one, other in pairs]
    return [*others, *(SYN[:8] + one + other + SYN[40:] for one, other in pairs)]


def _of_mode(name: str, kind: Kind) -> dict[str, Target]:
    packets = _between(kind)
    heads = [bytes((0, *of, 5, 20, 255)) for of in ((3, 4), (3, 1), (11, 0), (3, 0), (4, 0))]
    return {
        f"{name}-arrives": Target(partial(_arrives, kind), [b"\2\2\xff" + packet for packet in packets]),
        f"{name}-is-sent": Target(partial(_is_sent, kind), [b"\2" + packet for packet in packets]),
        f"{name}-is-reported": Target(
            partial(_is_reported, kind),
            [head + packet for head, packet in zip(cycle(heads), packets, strict=False)],
        ),
    }


_EVENTS = 20
"""So many in a row: more only take longer."""


def _isatap(kind: test_isatap.Kind, data: bytes) -> None:
    """What the mode is, a byte; then events: which it is, a choice, and a packet."""
    mode, now = kind(Random(data[:1])), 0.0
    for piece in pieces(data[1:])[:_EVENTS]:
        which, choice, packet = piece[:1], int.from_bytes(piece[1:2]), summed(fitted(piece[2:]))
        outer = test_isatap.OUTER[choice % len(test_isatap.OUTER)]
        match which:
            case b"a":
                test_isatap.arrives(mode, packet, outer, choice, now)
            case b"s":
                test_isatap.is_sent(mode, packet, now)
            case b"l":
                test_isatap.is_sent(mode, fitted(packet + bytes(1300)), now)
            case b"t":
                now += choice * 16.0
                test_isatap.time_passes(mode, now)
            case b"u" | b"e":
                type_, code = (3, choice >> 4) if which == b"u" else (11, 0)
                test_isatap.is_reported(mode, WireError(type_, code, 1400, "", packet, outer), now)


def _course(seed: int) -> bytes:
    """A router is heard first."""
    random = Random(seed)
    events = [
        random.choice((b"a", b"a", b"s", b"l", b"t", b"u", b"e"))
        + random.randbytes(1)
        + test_isatap.packet(random)[:250]
        for _ in range(5)
    ]
    return bytes((seed,)) + joined([b"a\0" + advert(prefix(), Mtu(1400)), *events])


def _advertiser(data: bytes) -> None:
    """Each packet stands behind a byte, its time in quarters of a second after the one before."""
    arrivals = [(piece[0] / 4, summed(fitted(piece[1:]))) for piece in pieces(data)[:_EVENTS]]
    test_advertiser.arrive(arrivals)


AUTOMATIC_TARGETS = {
    **_of_mode("6to4", KINDS["6to4"]),
    **_of_mode("6to4-relay", KINDS["6to4 relay"]),
    **_of_mode("v4compat", KINDS["v4compat"]),
    "isatap-host": Target(partial(_isatap, test_isatap.host), [_course(seed) for seed in range(40)]),
    "isatap-router": Target(partial(_isatap, test_isatap.router), [_course(seed) for seed in range(40)]),
    "advertiser": Target(
        _advertiser,
        [
            joined([b"\0" + SOLICITATION, b"\4" + SOLICITATION, b"\xff" + SOLICITATION]),
            *(joined([b"\0" + packet, b"\14" + SOLICITATION]) for packet in test_discovery.PACKETS),
        ],
    ),
}
