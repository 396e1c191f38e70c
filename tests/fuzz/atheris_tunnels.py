"""What ``run_atheris`` fuzzes of tunnels: packets, offload, both sides of each configured mode, addresses.

Lengths and sums are also made right: no search finds them, and a packet that has them wrong is only refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from random import Random

from portproxy.tunnel.addresses import KINDS, decode, parse
from portproxy.tunnel.effects import Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet.offload import merge
from tests.fuzz import test_addresses, test_discovery, test_offload, test_tunnel_modes, test_tunnel_packets
from tests.fuzz.target import Target, joined, pieces
from tests.fuzz.test_tunnel_modes import PEERS, Kind
from tests.fuzz.test_tunnel_packets import PACKETS4, PACKETS6, fitted, mended


def _packet(check: Callable[[bytes], object], data: bytes) -> None:
    """As it is, and with its length and sums right."""
    check(data)
    check(mended(fitted(data)))


def _clamped(data: bytes) -> None:
    """The first two bytes are the MTU."""
    mtu = 68 + int.from_bytes(data[:2]) % 8933
    _packet(lambda packet: test_tunnel_packets.clamped(packet, mtu), data[2:])


def _cut(data: bytes) -> None:
    """The first byte is the MTU."""
    _packet(lambda packet: test_tunnel_packets.cut(packet, int.from_bytes(data[:1])), data[1:])


def _put_together(data: bytes) -> None:
    """The first four bytes are the steps between packets, in sixteenths of a second."""
    steps = [octet / 16 for octet in data[:4]] or [0.0]
    test_tunnel_packets.put_together([mended(fitted(piece)) for piece in pieces(data[4:])], steps)


def _discovery(data: bytes) -> None:
    test_discovery.believed(data)
    test_discovery.believed(test_discovery.summed(fitted(data)))


def _merged(data: bytes) -> None:
    """Packets as they are, and with their lengths and IPv4's sums right."""
    packets = pieces(data)
    test_offload.merged(packets)
    test_offload.merged([mended(fitted(packet)) for packet in packets])


def _flow(seed: int) -> bytes:
    packets = [packet for packet in test_tunnel_packets.flow(Random(seed)) if packet]
    return bytes((0, 8, 0, 96)) + joined(packets)


_BULK = [test_offload.bulk(version, 5, size) for version in (4, 6) for size in (1, 33)]
_MTUS, _LINKS = (None, 1280, 1480), (1280, 1500)


def _mode(kind: Kind, choice: int) -> SixInFour | FourInSix:
    choice, clamp = divmod(choice, 2)
    choice, link = divmod(choice, len(_LINKS))
    mtu = _MTUS[choice % len(_MTUS)]
    return kind(PEERS[kind], test_tunnel_modes.OWN[kind], mtu=mtu, link=_LINKS[link], clamp_mss=bool(clamp))


def _arrives(kind: Kind, data: bytes) -> None:
    """What the mode is, the outer TOS, and whether it is a stranger's; then the packet."""
    if len(data) >= 3:
        source = Source("192.0.2.9" if data[2] == 1 else PEERS[kind], 0, data[1])
        test_tunnel_modes.arrives(kind, _mode(kind, data[0]), data[3:], source, 0.0)


def _is_sent(kind: Kind, data: bytes) -> None:
    """What the mode is; then the packet."""
    if data:
        test_tunnel_modes.is_sent(kind, _mode(kind, data[0]), data[1:], 0.0)


def _is_reported(kind: Kind, data: bytes) -> None:
    """What the mode is, type, code, four bytes of an MTU, and whether it is about another's; then what is
    quoted. It comes twice; then something is sent, and arrives."""
    if len(data) < 8:
        return
    tested, mtu, quoted = _mode(kind, data[0]), int.from_bytes(data[3:7]), data[8:]
    to = "192.0.2.9" if data[7] == 1 else PEERS[kind]
    for now in (0.0, 100.0):
        test_tunnel_modes.is_reported(kind, tested, WireError(data[1], data[2], mtu, "", quoted, to), now)
    test_tunnel_modes.is_sent(kind, tested, quoted, 100.0)
    test_tunnel_modes.arrives(kind, tested, quoted, Source(PEERS[kind]), 100.0)


def _of_mode(name: str, kind: Kind) -> dict[str, Target]:
    packets = test_tunnel_modes.PACKETS[kind]
    heads = [bytes((0, *of, 0, 0, 5, 20, 0)) for of in ((3, 4), (3, 1), (11, 0), (2, 0), (1, 3))]
    return {
        f"{name}-arrives": Target(partial(_arrives, kind), [b"\1\2\0" + packet for packet in packets]),
        f"{name}-is-sent": Target(partial(_is_sent, kind), [b"\1" + packet for packet in packets]),
        f"{name}-is-reported": Target(
            partial(_is_reported, kind),
            [head + packet for head, packet in zip(cycle(heads), packets, strict=False)],
        ),
    }


def _parts(data: bytes) -> None:
    """The name of a kind, then a name and a value in turn, each on a line of its own."""
    name, *rest = data.decode("utf-8", "surrogateescape").split("\n")
    if name in KINDS:
        test_addresses.made_or_refused(KINDS[name], dict(zip(rest[::2], rest[1::2], strict=False)))


_ADDRESSES = (
    *("2001:0:c000:201:8000:63bf:3fff:fdd2", "2002:c000:221::c000:221", "fe80::5efe:192.0.2.33", "::1"),
    *("::ffff:192.0.2.33", "64:ff9b::192.0.2.33", "ff02::1:ff00:1", "[fd00::200:5eff:fe00:5301]"),
    "ff7e:140::1",
)
_FOUND = [found for text in _ADDRESSES for found in decode(parse(text)).kinds]

TUNNEL_TARGETS = {
    "ipv4": Target(partial(_packet, test_tunnel_packets.parsed4), PACKETS4),
    "ipv6": Target(partial(_packet, test_tunnel_packets.parsed6), PACKETS6),
    "ipv6-upper-layer": Target(partial(_packet, test_tunnel_packets.looked_behind), PACKETS6),
    "mss": Target(_clamped, [b"\4\xbc" + packet for packet in PACKETS4 + PACKETS6]),
    "icmp-errors": Target(test_tunnel_packets.answered, PACKETS4 + PACKETS6),
    "fragments": Target(_cut, [bytes((64,)) + packet for packet in PACKETS4 + PACKETS6]),
    "reassembly": Target(_put_together, [_flow(seed) for seed in range(20)]),
    "discovery": Target(_discovery, test_discovery.PACKETS),
    "offload-merge": Target(_merged, [*map(joined, _BULK), joined(PACKETS4 + PACKETS6)]),
    "offload-split": Target(test_offload.cut, [data for packets in _BULK for data in merge(packets)]),
    **_of_mode("6in4", SixInFour),
    **_of_mode("4in6", FourInSix),
    "addresses": Target(
        lambda data: test_addresses.read_or_refused(data.decode("utf-8", "surrogateescape")),
        [text.encode() for text in _ADDRESSES],
    ),
    "address-parts": Target(
        _parts,
        ["\n".join([one.kind.name, *sum(one.values.items(), ())]).encode() for one in _FOUND],
    ),
}
