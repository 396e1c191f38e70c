"""What is wrong between rules that are each right: one name, one endpoint, or a ring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portproxy.config.rules import Place, Placed
from portproxy.config.tables import problem
from portproxy.loops import IsLocal, is_loopback, rings
from portproxy.model import ANY, Endpoint, Family, Rule, Server, literal

_SHOWN_RING = 8
"""Rules of a ring that are named in an error line."""
_SHOWN_WARNED = 3
"""Rules that are named in a warning about many."""


@dataclass(slots=True)
class Findings:
    """Problems of each rule, warnings, and who is shadowed by whom: see Config."""

    problems: Mapping[Place, list[str]]
    warnings: list[str] = field(default_factory=list)
    shadowed: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, here: Placed, key: str, value: object, told: str) -> None:
        self.problems[here.place].append(problem(here.where, key, value, told))


def find(
    placed: Sequence[Placed],
    server: Server,
    is_local: IsLocal | None,
    problems: Mapping[Place, list[str]],
) -> Findings:
    """Everything that is wrong between ``placed``, and with ``server``, in time linear in their number.

    Adds to ``problems``, which has the lines about each rule.
    """
    findings = Findings(problems)
    _names(placed, findings)
    listening = _endpoints(placed, findings)
    if server.status is not None:
        _status(listening, server.status, findings)
    _rings(listening, is_local, findings)
    rules = [here.rule for here in listening]
    findings.warnings += [*trust(rules), *per_worker(rules, server.workers)]
    return findings


def _names(placed: Sequence[Placed], findings: Findings) -> None:
    first: dict[str, Placed] = {}
    for here in placed:
        other = first.setdefault(here.rule.name, here)
        # Two default names are alike only where the rules listen alike, which is said by itself.
        if other is not here and not (other.unnamed and here.unnamed):
            told = f"{other.seen_from(here)} has this name already; each rule needs a name of its own"
            findings.refuse(here, "name", here.rule.name, told)


def _endpoints(placed: Sequence[Placed], findings: Findings) -> list[Placed]:
    """The rules that can listen: each the first on its endpoint."""
    first: dict[tuple[Family, str, int], Placed] = {}
    shadowed: dict[tuple[Family, str, int], Placed] = {}
    for here in placed:
        rule = here.rule
        earlier = other = first.setdefault(rule.endpoint, here)
        if earlier is here:
            continue
        if (rule.listen.address == ANY) is not (earlier.rule.listen.address == ANY):
            other = shadowed.setdefault(rule.endpoint, here)
        if other is not here:
            told = f"{other.seen_from(here)} listens on {other.rule.listen} already; change one of them"
            findings.refuse(here, "listenport", rule.listen.port, told)
        else:
            told = f"shadowed by {earlier.seen_from(here)}, which listens there as {earlier.rule.listen}"
            findings.warnings.append(problem(here.where, "listenaddress", rule.listen.address, told))
            findings.shadowed.append((rule.name, earlier.rule.name))
    return list(first.values())


def _status(listening: Sequence[Placed], status: Endpoint, findings: Findings) -> None:
    ip = literal(status.address)
    assert ip is not None, "status takes literals only"
    family = Family(f"v{ip.version}")
    for here in listening:
        rule = here.rule
        if rule.listen.port != status.port or rule.type.listen_family is not family:
            continue
        if rule.bind_address == status.address or rule.wildcard or ip.is_unspecified:
            told = f"the status endpoint {status} needs this port; change one of them"
            findings.refuse(here, "listenport", rule.listen.port, told)


def _rings(listening: Sequence[Placed], is_local: IsLocal | None, findings: Findings) -> None:
    for ring in rings([here.rule for here in listening], is_local):
        here = listening[ring[0]]
        if len(ring) == 1:
            told = "the rule connects to its own listener; name an address and a port where no rule listens"
        else:
            names = [listening[number].rule.name for number in (*ring[:_SHOWN_RING], ring[0])]
            if len(ring) > _SHOWN_RING:
                names.insert(-1, f"... ({len(ring)} rules)")
            told = f"rules {' -> '.join(names)} connect in a ring; one of them must connect elsewhere"
        findings.refuse(here, "connectaddress", here.rule.connect.address, told)


def trust(rules: Sequence[Rule]) -> list[str]:
    """A warning of what a relay takes from its upstream: the difference between local clients and others."""
    return _warning(
        [rule.name for rule in rules if _makes_local(rule)],
        "whoever connects reaches the upstream as a local client; where it trusts those, set allow, or a"
        " connectsource that it does not trust (127.0.0.2)",
    )


def per_worker(rules: Sequence[Rule], workers: int) -> list[str]:
    """A warning of a limit that counts what one of the ``workers`` has, where there are several."""
    return _warning(
        [rule.name for rule in rules if workers > 1 and rule.limits.maxconnpersource is not None],
        f"maxconnpersource holds in each of the {workers} workers, so a source may have {workers} times as"
        " many sessions in all",
    )


def _warning(names: Sequence[str], told: str) -> list[str]:
    """One line for all rules that ``names`` names, if any."""
    more = f" and {len(names) - _SHOWN_WARNED} more" if len(names) > _SHOWN_WARNED else ""
    return [f"{', '.join(names[:_SHOWN_WARNED])}{more}: {told}"] if names else []


def _makes_local(rule: Rule) -> bool:
    """Whether it lends strangers the address that an upstream on this computer knows its own clients by."""
    family = rule.type.connect_family
    if rule.acl.allow or not is_loopback(rule.connect.address, family):
        return False
    if literal(rule.connectsource or family.loopback) != literal(family.loopback):
        return False
    return not is_loopback(rule.listen.address, rule.type.listen_family)
