"""Whether something on this host keeps packets from the rule's listener: a hint, and no more than that."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

import trio

from portproxy.counters import CONNECTIONS
from portproxy.explain.case import Case, errno_name
from portproxy.explain.explanation import Outcome, Step
from portproxy.model import Family
from portproxy.net.tcp import sockaddr
from portproxy.snapshot import RuleState

PATIENCE = 2.0
"""Seconds until the listener has to have answered. It is on this host; but an ICMP error that comes while
connect(2) still holds the socket is not told before the SYN is repeated, a second later."""
_LOOK_EVERY = 0.02
"""Seconds between looks at the count of dropped packets, of which nobody tells."""

_SO_MEMINFO = 55
_DROPS = 8
"""From asm-generic/socket.h; SK_MEMINFO_DROPS of linux/sock_diag.h: the last of nine 32-bit numbers."""
_MEMINFO = struct.Struct("9I")

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("HBBI")
_ONLY_RESETS = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the TCP flags (RFC 9293, 3.1)
        (0x45, 0, 1, 0x04),  # RST is set?
        (0x06, 0, 0, 0xFFFFFFFF),  # then take it all
        (0x06, 0, 0, 0),  # else drop it
    )
)
"""struct sock_filter of linux/filter.h, as bpf(4) has it: a TCP socket's filter sees the TCP header on."""


async def firewall(case: Case) -> Step:
    """Whether a connection from this host gets an answer from the rule's listener.

    Only half a connection is made: the listener's SYN-ACK is dropped by a filter on the probing socket and
    counted there, so that the kernel never hands the connection to the relay; it is neither accepted nor
    counted, logged or dialled for, and accepting costs nothing more. The packets go through this host's
    netfilter hooks over its loopback interface; what a firewall does to other interfaces, or one outside
    this host, is not seen. Reading the ruleset instead would need CAP_NET_ADMIN, which a relay should not
    have, and nft(8), which an image may lack.
    """
    if case.state is not RuleState.LISTENING:
        return Step("firewall", Outcome.SKIPPED, "nothing listens that could answer")
    rule = case.rule
    address = rule.type.listen_family.loopback if rule.wildcard else case.bound
    try:
        probe = _probing_socket(rule.type.listen_family)
    except OSError as error:
        why = "looking takes CAP_NET_ADMIN" if error.errno == errno.EPERM else "no socket to look with"
        return Step("firewall", Outcome.SKIPPED, why, errno_name(error))
    with probe:
        code = await _answer(probe, address, rule.listen.port)
    if code == errno.EADDRNOTAVAIL:
        return Step("firewall", Outcome.SKIPPED, f"this host has no address {address} to look at")
    if code:
        text = f"the listener on {address} does not answer this host itself: packets are dropped or rejected"
        advice = (
            "see what filters input: nft list ruleset, or iptables-save\n"
            "or the listener's queue is full: ss -ltn shows it"
        )
        return Step("firewall", Outcome.FAIL, text, errno_name(OSError(code, "")), advice)
    text = "the listener answers this host; whether others reach it is not seen from here"
    if case.counted[CONNECTIONS]:
        return Step("firewall", Outcome.OK, text)
    return Step("firewall", Outcome.OK, f"{text}, and none has yet", "", _where_to_look(case))


def _where_to_look(case: Case) -> str:
    version, source = case.rule.type.listen_family.version, case.source
    sent_by = ""
    if source is not None and source.version == version:
        sent_by = f" and src host {str(source).partition('%')[0]}"
    packets = f"{'ip6' if version == 6 else 'ip'} and tcp dst port {case.rule.listen.port}{sent_by}"
    return (
        f"while a client tries: tcpdump -ni any '{packets}'\n"
        "what it shows was dropped on this host: nft list ruleset\n"
        "if it shows nothing: routes, or a firewall before this host (a cloud's security group)"
    )


def _probing_socket(family: Family) -> socket.socket:
    """A TCP socket that drops what it receives, but for resets. Raises OSError."""
    program = ctypes.create_string_buffer(_ONLY_RESETS, len(_ONLY_RESETS))
    fprog = struct.pack("HP", len(_ONLY_RESETS) // _INSTRUCTION.size, ctypes.addressof(program))
    sock = socket.socket(family.af, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        _dropped(sock)  # where the kernel does not count it, there is no looking
    except OSError:
        sock.close()
        raise
    return sock


async def _answer(sock: socket.socket, address: str, port: int) -> int:
    """The errno that a SYN to the literal ``address`` is answered by; 0 for a SYN-ACK."""
    try:
        code = sock.connect_ex(sockaddr(address, port))
    except OSError as error:
        return error.errno or errno.EIO
    with trio.move_on_after(PATIENCE):
        while code in (0, errno.EINPROGRESS):
            if _dropped(sock):
                return 0
            with trio.move_on_after(_LOOK_EVERY):
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return code
    return errno.ETIMEDOUT


def _dropped(sock: socket.socket) -> bool:
    """Whether the filter has dropped a packet."""
    meminfo = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return bool(_MEMINFO.unpack(meminfo)[_DROPS])
