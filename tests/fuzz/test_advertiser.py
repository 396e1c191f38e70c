"""Whatever a router of a link is asked, and whenever: solicitations alone are answered, and none too soon."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from portproxy.tunnel.packet.discovery import RouterSolicitation
from tests.fuzz.examples import binary, seeded
from tests.fuzz.test_discovery import believed, changed
from tests.tunnel.test_advertiser import SOLICITATION, begun, read

APART, DELAY = 3.0, 0.5
"""In seconds (RFC 4861, 10): MIN_DELAY_BETWEEN_RAS, MAX_RA_DELAY_TIME."""


def arrive(packets: Iterable[tuple[float, bytes]]) -> tuple[int, int]:
    """Each so many seconds after the one before; how many were solicitations, and how many were not."""
    router, now, last, counts = begun(), 0.0, 0.0, [0, 0]
    for wait, packet in packets:
        now += wait
        while (due := router.next_deadline()) <= now:
            assert due >= last + APART
            (sent,) = router.tick(due)
            read(sent)
            assert len(sent) <= 1280
            last = due
        solicits = router.solicited(packet, now)
        assert solicits == isinstance(believed(packet), RouterSolicitation)
        assert router.next_deadline() <= (max(now, last + APART) + DELAY if solicits else due)
        assert solicits or router.next_deadline() == due
        counts[not solicits] += 1
    return counts[0], counts[1]


def packets(random: Random) -> list[tuple[float, bytes]]:
    """Any bytes, changed messages of neighbour discovery, and solicitations."""
    draws = (changed, lambda random: SOLICITATION, lambda random: binary(random, 120))
    waits = random.choices((0.0, 0.1, 2.9, 20.0, 700.0), k=random.randint(1, 4))
    return [(wait, random.choice(draws)(random)) for wait in waits]


@seeded
def test_whatever_arrives_is_answered_by_the_rules_or_ignored(random: Random) -> None:
    arrive(packets(random))


def test_what_is_drawn_gets_far_enough() -> None:
    """Some are solicitations, some are not."""
    counts = [arrive(packets(Random(seed))) for seed in range(200)]
    assert min(map(sum, zip(*counts, strict=True))) > 100
