"""Who may connect, and how many at once. Pure: nothing here touches a socket or a clock."""

from __future__ import annotations

import functools
import ipaddress
from typing import NamedTuple

from portproxy.model import Acl, IPAddress, IPNetwork, Limits
from portproxy.reasons import Refused

_V6_SOURCE_SHIFT = 64
"""An IPv6 host has a /64 to pick addresses from (RFC 4291, 2.5.4), so that is what counts as one source."""

Source = tuple[int, int]
"""IP version and the address, or for IPv6 its /64."""


def source_of(address: str) -> Source:
    """What ``maxconnpersource`` counts ``address`` under."""
    ip = ipaddress.ip_address(address)
    return ip.version, int(ip) >> (_V6_SOURCE_SHIFT if ip.version == 6 else 0)


class Verdict(NamedTuple):
    """Whether an address is admitted, and the length of the prefix that decides, if any covers it."""

    admitted: bool
    length: int | None


@functools.cache
def _verdict(admitted: bool, length: int) -> Verdict:
    # One for all prefixes of a length: there may be many, and asking an AccessList makes none.
    return Verdict(admitted, length)


class AccessList:
    """An ``Acl`` of one family made ready to be asked: one dict look-up for each prefix length in use."""

    def __init__(self, acl: Acl) -> None:
        self._default = Verdict(not acl.allow, None)
        verdicts: dict[int, dict[int, Verdict]] = {}
        # deny last: it wins where both name the same prefix.
        for admitted, networks in ((True, acl.allow), (False, acl.deny)):
            for network in networks:
                prefix = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
                verdicts.setdefault(network.prefixlen, {})[prefix] = _verdict(admitted, network.prefixlen)
        self._by_length = sorted(verdicts.items(), reverse=True)

    def verdict(self, ip: IPAddress) -> Verdict:
        """What the most specific prefix that covers ``ip`` says."""
        address = int(ip)
        for length, verdicts in self._by_length:
            verdict = verdicts.get(address >> (ip.max_prefixlen - length))
            if verdict is not None:
                return verdict
        return self._default


class Admission:
    """A rule's door. ``sources`` counts sessions by source, kept only while a limit asks for it."""

    def __init__(self, acl: Acl, limits: Limits) -> None:
        self._acl = AccessList(acl) if acl.allow or acl.deny else None
        self._maxconn = limits.maxconn
        self._per_source = limits.maxconnpersource
        self._sources: dict[Source, int] = {}

    def judge(self, address: str | None, active: int) -> Refused | None:
        """Why a connection from ``address`` is refused beside ``active`` sessions; None: it may enter.

        Without an address: why everybody is refused.
        """
        if self._acl and address is not None:
            verdict = self._acl.verdict(ipaddress.ip_address(address))
            if not verdict.admitted:
                return Refused.DENIED
        if self._maxconn is not None and active >= self._maxconn:
            return Refused.MAXCONN
        if self._per_source is not None and address is not None:
            sessions = self._sources.get(source_of(address), 0)
            if sessions >= self._per_source:
                return Refused.MAXCONNPERSOURCE
        return None

    def deciding(self, ip: IPAddress) -> IPNetwork | None:
        """The prefix of allow or deny that decides about ``ip``; None where none covers it."""
        length = self._acl.verdict(ip).length if self._acl else None
        return None if length is None else ipaddress.ip_network((ip, length), strict=False)

    def enter(self, address: str) -> None:
        """Count a session from ``address``."""
        if self._per_source is not None:
            source = source_of(address)
            self._sources[source] = self._sources.get(source, 0) + 1

    def leave(self, address: str) -> None:
        """Take a session from ``address`` off the count."""
        if self._per_source is not None:
            source = source_of(address)
            left = self._sources[source] - 1
            if left:
                self._sources[source] = left
            else:
                del self._sources[source]
