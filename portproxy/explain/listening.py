"""The client's side of a rule: may it come by this family, does somebody listen, is it admitted."""

from __future__ import annotations

import errno
from pathlib import Path

from portproxy.admission import Admission
from portproxy.counters import ACTIVE
from portproxy.explain.case import ADVICE_ON_SHORTAGE, Case, bind_error, errno_name
from portproxy.explain.explanation import Outcome, Step
from portproxy.model import Family, IPNetwork, Rule, RuleType, literal
from portproxy.net.listeners import UNPRIVILEGED_PORT_START
from portproxy.reasons import Refused
from portproxy.snapshot import RuleState

_CAP_NET_BIND_SERVICE = 1 << 10
"""Its bit in /proc/self/status (capabilities(7), linux/capability.h)."""
_FEW_SESSIONS = 16
"""When no more than these fit into what is left of RLIMIT_NOFILE, it is time to say so."""

_NO_SUCH_ADDRESS = {"EADDRNOTAVAIL", "ENODEV"}
_LISTEN_ADVICE = {
    "EADDRINUSE": "stop what holds the port (ss -ltnp shows it), or give the rule another listenport",
    "EADDRNOTAVAIL": "give an interface this address, or let the rule listen on *",
    "EACCES": "see step `privilege`",
}


def family(case: Case) -> Step:
    """Whether the client can come by the family that the rule listens on."""
    rule, source = case.rule, case.source
    version = rule.type.listen_family.version
    if source is None:
        return Step("family", Outcome.OK, f"clients come over IPv{version}")
    if source.version == version:
        return Step("family", Outcome.OK, f"{source} comes over IPv{version}, where the rule listens")
    text = f"{source} is an IPv{source.version} address, and {rule.type} listens on IPv{version} only"
    theirs = Family(f"v{source.version}")
    for other in case.relay.config.active:
        if other.listen.port == rule.listen.port and other.type.listen_family is theirs:
            advice = f"clients over IPv{source.version} reach rule {other.name} on this port: explain that"
            return Step("family", Outcome.FAIL, text, advice=advice)
    needed = RuleType(f"{theirs.value}to{rule.type.connect_family.value}")
    advice = (
        f"clients over IPv{source.version} need a {needed} rule: portproxy add {needed} "
        f"listenport={rule.listen.port} connectaddress={rule.connect.address} connectport={rule.connect.port}"
    )
    return Step("family", Outcome.FAIL, text, advice=advice)


def privilege(case: Case) -> Step:
    """Whether this process may bind the rule's port (ip(7), capabilities(7))."""
    port = case.rule.listen.port
    try:
        start, privileged = int(UNPRIVILEGED_PORT_START.read_text()), _may_bind_any_port()
    except OSError as error:
        return Step("privilege", Outcome.SKIPPED, f"{error.filename} cannot be read", errno_name(error))
    if port >= start:
        return Step("privilege", Outcome.OK, f"port {port} needs none")
    if privileged:
        return Step("privilege", Outcome.OK, f"port {port} needs CAP_NET_BIND_SERVICE, which is there")
    advice = (
        "give the relay CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), set sysctl"
        f" net.ipv4.ip_unprivileged_port_start={port}, or use a listenport from {start} up"
    )
    needs = f"ports below {start} need CAP_NET_BIND_SERVICE, which this process has not"
    if case.relay.dropped_to:
        if case.state is RuleState.LISTENING:
            text = f"port {port} was bound before the relay became {case.relay.dropped_to}"
            return Step("privilege", Outcome.OK, text)
        advice = f"restart the relay: it binds its ports before it becomes {case.relay.dropped_to}"
    if case.state is RuleState.LISTENING:
        text = f"{needs}; port {port} was bound before, and could not be bound again"
        return Step("privilege", Outcome.WARNING, text, advice=advice)
    refused = bind_error(case.rule.type.listen_family, case.bound, port)
    return Step("privilege", Outcome.FAIL, needs, refused, advice)


def _may_bind_any_port() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_NET_BIND_SERVICE)
    return False


def listener(case: Case) -> Step:
    """Whether the rule listens, and where the client can reach it."""
    if case.state is not RuleState.LISTENING:
        return _not_listening(case)
    rule, source, bound = case.rule, case.source, case.bound
    if case.rooms and all(room.paused for room in case.rooms):
        text = "accepting is paused: no descriptor or kernel memory was left"
        return Step("listener", Outcome.FAIL, text, _shortage(case), ADVICE_ON_SHORTAGE)
    gone = "" if rule.wildcard else bind_error(rule.type.listen_family, bound, 0)
    if gone in _NO_SUCH_ADDRESS:
        text = f"it listens on {rule.listen}, but no interface has that address any more"
        return Step("listener", Outcome.FAIL, text, gone, _LISTEN_ADVICE["EADDRNOTAVAIL"])
    ip = literal(bound)
    if ip is not None and ip.is_loopback:
        if source is not None and not source.is_loopback:
            text = f"it listens on {rule.listen}, which only this computer's own clients reach"
            advice = f"let the rule listen on * or on the address that {source} connects to"
            return Step("listener", Outcome.FAIL, text, advice=advice)
        return Step("listener", Outcome.OK, f"it listens on {rule.listen}, for clients of this computer only")
    return Step("listener", Outcome.OK, f"it listens on {rule.listen}")


def _not_listening(case: Case) -> Step:
    rule, text = case.rule, f"it does not listen: {case.last_error}"
    if case.state is RuleState.DRAINING:
        return Step("listener", Outcome.FAIL, "it does not listen: the relay is stopping")
    if case.state is RuleState.SHADOWED:
        advice = "delete one of the two, or give this one another listenaddress or listenport"
        return Step("listener", Outcome.FAIL, text, advice=advice)
    if not case.bound:
        advice = "let the listen address resolve on this host, or write it as a number"
        return Step("listener", Outcome.FAIL, text, advice=advice)
    code = bind_error(rule.type.listen_family, case.bound, rule.listen.port)
    advice = _LISTEN_ADVICE.get(code, "the relay tries again by itself, every 30 s at least")
    return Step("listener", Outcome.FAIL, text, code, advice)


def _shortage(case: Case) -> str:
    """The name of the errno that one more socket gives now in every worker, empty where there can be one."""
    errors = [room.error for room in case.rooms]
    return errno.errorcode.get(errors[0], str(errors[0])) if errors and all(errors) else ""


def admission(case: Case) -> Step:
    """Whether the rule takes this client, or any, beside those that it has."""
    rule, source, active = case.rule, case.source, case.counted[ACTIVE]
    if source is not None and source.version != rule.type.listen_family.version:
        return Step("admission", Outcome.SKIPPED, f"{source} cannot come by this family")
    door = Admission(rule.acl, rule.limits)
    # The worker that has the fewest of its sessions may take the client.
    for _ in range(min((room.from_source for room in case.rooms), default=0)):
        door.enter(str(source))
    refused = door.judge(None if source is None else str(source), active)
    prefix = None if source is None else door.deciding(source)
    if refused:
        return _refused(case, refused, active, prefix)
    left = sum(room.sessions for room in case.rooms)
    if rule.limits.maxconn is not None:
        left = min(left, rule.limits.maxconn - active)
    if code := _shortage(case):
        return Step(
            "admission", Outcome.FAIL, "no descriptor is left for another client", code, ADVICE_ON_SHORTAGE
        )
    if sum(room.sessions for room in case.rooms) < _FEW_SESSIONS and case.rooms:
        text = f"admitted, but RLIMIT_NOFILE leaves descriptors for {left} sessions more"
        return Step("admission", Outcome.WARNING, text, advice=ADVICE_ON_SHORTAGE)
    most = rule.limits.maxconnpersource
    if full := sum(room.from_source >= most for room in case.rooms) if most else 0:
        text = f"{full} of {len(case.rooms)} workers have as many sessions of {source} as may be ({most})"
        advice = "whether it is admitted depends on which worker takes it; raise maxconnpersource"
        return Step("admission", Outcome.WARNING, text, advice=advice)
    if source is None:
        who = _who_may(rule)
    else:
        who = f"{source} is admitted by {f'allow={prefix}' if prefix else 'default'}"
    return Step("admission", Outcome.OK, f"{who}; sessions: {active}, room for {left} more")


def _refused(case: Case, refused: Refused, active: int, prefix: IPNetwork | None) -> Step:
    """The failing step beside ``active`` sessions; ``prefix`` decides about its client, if any does."""
    limits, source = case.rule.limits, case.source
    if refused is Refused.MAXCONN:
        text = f"{active} sessions run, and maxconn is {limits.maxconn}"
        advice = "raise maxconn, or see who holds the sessions: portproxy sessions"
    elif refused is Refused.MAXCONNPERSOURCE:
        text = f"{source} has as many sessions as maxconnpersource allows ({limits.maxconnpersource})"
        advice = "raise maxconnpersource, or see the sessions: portproxy sessions"
    elif prefix:
        text = f"deny={prefix} is the most specific prefix that covers {source}"
        advice = f"take it out of deny, or add a longer prefix to allow (allow={source})"
    else:
        text = f"no prefix of allow covers {source}, and who is not covered is denied then"
        advice = f"add it: allow={source}, or the prefix of its network"
    return Step("admission", Outcome.FAIL, text, advice=advice)


def _who_may(rule: Rule) -> str:
    allow, deny = (", ".join(map(str, networks)) for networks in (rule.acl.allow, rule.acl.deny))
    who = f"only {allow} may connect" if allow else "everybody may connect"
    return f"{who}, but not {deny}" if deny else who
