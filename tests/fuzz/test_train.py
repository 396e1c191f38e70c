"""A stream of packets, however it is cut, and of anything else."""

from __future__ import annotations

from random import Random

from portproxy.tunnel.packet import PacketError, ipv6
from portproxy.tunnel.packet.train import Train
from tests.fuzz.checks import one_line
from tests.fuzz.examples import binary, seeded


def chunks(random: Random, data: bytes) -> list[bytes]:
    """``data``, cut anywhere."""
    found, at = [], 0
    while at < len(data):
        end = at + random.choice((1, 7, 39, 40, 41, 300, 5000))
        found.append(data[at:end])
        at = end
    return found


@seeded
def test_packets_come_out_as_they_went_in(random: Random) -> None:
    sizes = [random.choice((0, 1, 8, 1240, random.randrange(3000))) for _ in range(random.randrange(6))]
    packets = [ipv6.build(bytes(16), bytes(16), 17, random.randbytes(size)) for size in sizes]
    begun = packets[0][: random.randrange(len(packets[0]))] if packets else b""
    train = Train()
    came = [one for chunk in chunks(random, b"".join(packets) + begun) for one in train.cut(chunk)]
    assert came == packets
    if begun:
        assert train.cut(packets[0][len(begun) :]) == packets[:1]


@seeded
def test_anything_is_packets_or_an_error(random: Random) -> None:
    """What comes out is what went in, one after the other, up to where no packet begins."""
    data = b"".join(random.choice((b"\x60", b"")) + binary(random, 60) for _ in range(random.randrange(4)))
    train, came, wrong = Train(), b"", False
    try:
        for chunk in chunks(random, data):
            came += b"".join(train.cut(chunk))
    except PacketError as error:
        one_line([str(error)])
        wrong = True
    assert data.startswith(came)
    assert wrong == (not is_train(data))


def is_train(data: bytes) -> bool:
    """Whether ``data`` may be the beginning of one."""
    while data and data[0] >> 4 == 6:
        data = data[ipv6.HEADER + int.from_bytes(data[4:6]) :] if len(data) >= ipv6.HEADER else b""
    return not data
