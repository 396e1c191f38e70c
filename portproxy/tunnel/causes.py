"""Why a tunnel cannot be, for people."""

from __future__ import annotations

import errno
import os

from portproxy.tunnel.device import NODE
from portproxy.tunnel.interface import NoGatewayError
from portproxy.tunnel.model import Tunnel

_FORWARDING = "sysctl net.ipv6.conf.all.forwarding=1"


class NotForwardingError(OSError):
    """What others send, this host does not forward."""


class NotPublicError(OSError):
    """The address that the default route leaves from is nobody's in the Internet."""


def explain(spec: Tunnel, error: OSError, dropped_to: str | None = None) -> str:
    """Why ``spec`` cannot be, and what would be right, in one line.

    ``dropped_to`` is the user that this process became when it was root no longer, if it was.
    """
    for kind, why in (
        (NotForwardingError, f"a {spec.role} forwards packets, and this host does not: {_FORWARDING}"),
        (NotPublicError, f"{error.strerror}; {spec.type} is for public addresses, unless private = true"),
        (NoGatewayError, f"no address of the tunnel has the gateway of route {error.strerror} in its prefix"),
    ):
        if isinstance(error, kind):
            return why
    if error.errno in (errno.EPERM, errno.EACCES):
        return _unprivileged(spec, dropped_to)
    return _explained(spec, error).get(error.errno or 0) or os.strerror(error.errno or errno.EIO)


def _explained(spec: Tunnel, error: OSError) -> dict[int, str]:
    no_route = f"there is no route to remoteaddress {spec.remoteaddress}"
    if spec.type.automatic:
        no_route = "there is no route that would say which address is this host's; set localaddress"
    return {
        errno.ENOENT: f"there is no {NODE} here: load the module tun, or give the container the device",
        errno.EBUSY: f"there is an interface {spec.interface} already; set another name with interface =",
        errno.EADDRNOTAVAIL: f"localaddress {spec.localaddress} is no address of this host",
        errno.ENETUNREACH: no_route,
        errno.EHOSTUNREACH: no_route,
        errno.EBADFD: f"the interface {spec.interface} was removed",
        errno.ENODEV: f"the interface {spec.interface} was removed",
        errno.ENETDOWN: f"the interface {spec.interface} was set down: ip link set dev {spec.interface} up",
        errno.EAFNOSUPPORT: f"IPv6 is switched off: sysctl net.ipv6.conf.{error.strerror}.disable_ipv6=0",
        errno.EEXIST: f"{error.strerror} is there already; a tunnel displaces none",
        errno.EADDRINUSE: f"{error.strerror} has these ends already; what arrives could be either's",
        errno.EDESTADDRREQ: f"remoteaddress {spec.remoteaddress} is {error.strerror}, and no other host's",
        errno.ELOOP: f"the way to its peer leads through the interface {error.strerror}, and from there back",
    }


def _unprivileged(spec: Tunnel, dropped_to: str | None) -> str:
    needed = f"making the interface {spec.interface} and its socket needs CAP_NET_ADMIN and CAP_NET_RAW"
    if not dropped_to:
        return needed
    dropped = f"root was dropped to user {dropped_to} after the start"
    return f"{needed}; {dropped}, so a tunnel can be made or changed at a start only"
