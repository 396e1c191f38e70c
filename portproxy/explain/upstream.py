"""The upstream's side of a rule: its addresses, whether they lead back here, and what connecting gives."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import trio

from portproxy.dataplane.transfer import RESETS, reset
from portproxy.explain.case import ADVICE_ON_SHORTAGE, Case, bind_error, errno_name
from portproxy.explain.explanation import Outcome, Step
from portproxy.model import Family, Rule, RuleType, literal
from portproxy.net.dial import begin_connect, connected_to_itself
from portproxy.net.resolver import ResolveError
from portproxy.net.tcp import endpoint_text
from portproxy.wire.worker_frames import Way

PATIENCE = 5.0
"""Seconds that a look-up, or all upstream addresses together, may take here; less with a shorter
connecttimeout."""

_ADVICE = {
    "ECONNREFUSED": "nothing listens there, or a firewall rejects: check that the service runs, and is bound"
    " to this address and family (ss -ltn on its host)",
    "ETIMEDOUT": "the host is down, a firewall on the way or there drops packets, or connecttimeout is short",
    "ENETUNREACH": "this host has no route there (ip route get); for IPv6 often no default route or address",
    "EHOSTUNREACH": "the last router, or this host, does not find it: wrong address, host down, or a firewall"
    " that rejects",
    "EACCES": "a firewall or a route prohibits it, or a policy on this host (SELinux)",
    "EPERM": "a firewall or a policy on this host forbids it: nft list ruleset",
    "EADDRNOTAVAIL": "connectsource is on no interface, or the local ports to this upstream are used up"
    " (sysctl net.ipv4.ip_local_port_range)",
    "EINVAL": "no route there may be used from connectsource, or a blackhole route is in the way",
    "ENODEV": "the interface after the % does not exist in the relay's network namespace",
    "EMFILE": ADVICE_ON_SHORTAGE,
}
_NO_SUCH_ADDRESS = {"EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY"}
"""What getaddrinfo(3) answers when there is no such name, or none of this family; others tell nothing."""
_NO_ADVICE = "see connect(2) for what this means"


async def resolve(case: Case) -> tuple[Step, tuple[str, ...]]:
    """The upstream's addresses as a session would get them now, from the same cache."""
    rule, resolver = case.rule, case.relay.resolver
    name, family = rule.connect.address, rule.type.connect_family
    if literal(name):
        return Step("resolve", Outcome.OK, f"{name} is an address: nothing to look up"), (name,)
    addresses: tuple[str, ...] = ()
    try:
        known = resolver.fresh(name, family) is not None
        # Its own time is the session's: a shorter one would leave a failure for sessions to find.
        with trio.move_on_after(PATIENCE) as patience:
            addresses = await resolver.resolve(name, family, rule.limits.connecttimeout)
    except ResolveError as error:
        return await _unresolved(case, str(error), error.code), ()
    silent = f"no answer within {PATIENCE:g} s"
    if patience.cancelled_caught:
        addresses = resolver.last(name, family)
    if not addresses:
        return await _unresolved(case, f"{name}: {silent}", ""), ()
    told = f"{name} is {', '.join(addresses)}"
    failing = resolver.failing_for(name, family)
    if patience.cancelled_caught or failing is not None:
        why = silent if failing is None else f"look-ups have failed for {failing:.0f} s"
        text = f"{told}, its last good answer: {why}"
        return Step("resolve", Outcome.WARNING, text, advice=_ask_yourself(name, family)), addresses
    when = "answered seconds ago" if known else "looked up just now"
    return Step("resolve", Outcome.OK, f"{told} ({when})"), addresses


async def _unresolved(case: Case, text: str, code: str) -> Step:
    """The failing step; where the name has addresses of the other family, that is the advice."""
    rule, name = case.rule, case.rule.connect.address
    family = rule.type.connect_family
    other = Family.V6 if family is Family.V4 else Family.V4
    found: tuple[str, ...] = ()
    if code in _NO_SUCH_ADDRESS:
        with trio.move_on_after(PATIENCE), contextlib.suppress(ResolveError):
            found = await case.relay.resolver.resolve(name, other, math.inf)
    if not found:
        return Step("resolve", Outcome.FAIL, text, code, _ask_yourself(name, family))
    fitting = RuleType(f"{rule.type.listen_family.value}to{other.value}")
    text = (
        f"{name} has only IPv{other.version} addresses ({', '.join(found)}); "
        f"this rule connects over IPv{family.version}"
    )
    return Step("resolve", Outcome.FAIL, text, code, f"use {fitting} instead of {rule.type}")


def _ask_yourself(name: str, family: Family) -> str:
    """How a person asks what the relay asked."""
    return f"ask on this host: getent ahostsv{family.version} {name}; see /etc/resolv.conf and the spelling"


def loop(rule: Rule, addresses: tuple[str, ...], ways: Mapping[str, Way]) -> tuple[Step, tuple[str, ...]]:
    """Whether connecting would come back to this rule, by where ``ways`` go; the addresses that do not."""
    if not addresses:
        return Step("loop", Outcome.SKIPPED, "there is no address to look at"), ()
    back = [address for address in addresses if address in ways and ways[address].leads_back]
    onward = tuple(address for address in addresses if address not in back)
    if not back:
        return Step("loop", Outcome.OK, "no address leads back to this rule"), onward
    text = f"{', '.join(back)} port {rule.connect.port} leads back to this rule's own listener"
    advice = "let the rule connect to where no rule of this relay listens, or mend what the name says"
    if onward:
        return Step("loop", Outcome.WARNING, f"{text}; it is left out", advice=advice), onward
    return Step("loop", Outcome.FAIL, text, advice=advice), ()


def source(rule: Rule) -> Step:
    """Whether connectsource can be bound."""
    if rule.connectsource is None:
        return Step("source", Outcome.OK, "the kernel picks the address to connect from")
    code = bind_error(rule.type.connect_family, rule.connectsource, 0)
    if not code:
        return Step("source", Outcome.OK, f"connections go out from {rule.connectsource}")
    text = f"connectsource {rule.connectsource} cannot be used"
    return Step("source", Outcome.FAIL, text, code, _ADVICE.get(code, _NO_ADVICE))


async def connects(rule: Rule, addresses: tuple[str, ...], ways: Mapping[str, Way]) -> list[Step]:
    """Connect to each address, in the order and within the time that a session would give it.

    The upstream sees a connection that is closed at once by FIN, like a port check; most services take no
    notice of that, while a reset is an error in many a log.
    """
    if not addresses:
        return [Step("connect", Outcome.SKIPPED, "there is no address to connect to")]
    deadline = trio.current_time() + min(rule.limits.connecttimeout, PATIENCE)
    steps = []
    for number, address in enumerate(addresses):
        served_by = ways[address].served_by if address in ways else None
        if served_by is not None:
            # A connection would be a client of that rule, counted, logged and dialled for.
            text = f"rule {served_by} of this relay listens there: explain that one"
            steps.append(Step(_name(rule, address), Outcome.SKIPPED, text))
        else:
            share = (deadline - trio.current_time()) / (len(addresses) - number)
            steps.append(await _connect(rule, address, max(0.0, share)))
    if all(step.outcome is Outcome.FAIL for step in steps):
        return steps
    # A session goes on to the next address.
    return [
        replace(step, outcome=Outcome.WARNING) if step.outcome is Outcome.FAIL else step for step in steps
    ]


def _name(rule: Rule, address: str) -> str:
    return f"connect {endpoint_text(address, rule.connect.port)}"


async def _connect(rule: Rule, address: str, share: float) -> Step:
    began = trio.current_time()
    try:
        await _connected(rule, address, share)
    except OSError as error:
        code = errno_name(error)
        if error.errno in RESETS:
            text = "the upstream accepted the connection and reset it at once"
            advice = "its log may say why; perhaps it does not take clients from this host's address"
            return Step(_name(rule, address), Outcome.WARNING, text, code, advice)
        text = (
            f"no answer within {share:.1f} s"
            if error.errno == errno.ETIMEDOUT
            else os.strerror(error.errno or errno.EIO)
        )
        return Step(_name(rule, address), Outcome.FAIL, text, code, _ADVICE.get(code, _NO_ADVICE))
    took = 1000 * (trio.current_time() - began)
    return Step(_name(rule, address), Outcome.OK, f"connected within {took:.1f} ms")


async def _connected(rule: Rule, address: str, share: float) -> None:
    """Connect as a session of ``rule`` does, within ``share`` seconds, and close. Raises OSError."""
    with closing(begin_connect(address, rule)) as sock:
        code = errno.ETIMEDOUT
        with trio.move_on_after(share):
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code and connected_to_itself(sock, rule.connect.port):
            # By RST: TIME_WAIT after it would keep the real upstream from binding.
            reset(sock)
            code = errno.ECONNREFUSED
        if code:
            raise OSError(code, "connect")
