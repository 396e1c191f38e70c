"""Why a packet was not carried. Every one of these has a counter, and is the metric's ``reason``."""

from __future__ import annotations

from portproxy.reasons import Reason


class Dropped(Reason):
    """A packet that came from either side and went no further."""

    NOT_IP = "not-ip", "it is no packet of the family that the tunnel carries"
    TRUNCATED = "truncated", "it ends before its header says"
    SOURCE = "source", "its outer source is no peer of the tunnel's"
    INNER_SOURCE = "inner-source", "its inner source may not be in a tunnel (RFC 4213, 3.6)"
    INNER_DESTINATION = "inner-destination", "its inner destination is none that the tunnel leads to"
    DISCOVERY = (
        "discovery",
        "router discovery or a redirect, not to be believed (RFC 5214, 8.3), or more than is answered",
    )
    MULTICAST = (
        "multicast",
        "it is for many, and the tunnel leads to one; a few are normal: the kernel's own multicast reports",
    )
    LOOP = "loop", "a tunnel would bring it back to this host (RFC 6324)"
    NO_ROUTER = "no-router", "no router or relay of the tunnel's is known by now"
    TOO_BIG = "too-big", "it is larger than the tunnel's MTU; its sender was told"
    ECN = "ecn", "a router marked it as congested, and its sender knows nothing of that (RFC 6040, 4.2)"
    NO_ROUTE = "no-route", "the kernel has no route to the tunnel's peer"
    REFUSED = "refused", "the kernel refused to send or deliver it; the log has the errno, once a minute"
    BUSY = "busy", "the kernel had no room to send or deliver it"
    QUEUE = "queue", "the socket's receive queue was full; the first tunnel of the address counts it"
