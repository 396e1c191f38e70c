"""Rules and tables of rules drawn at random: everything that a configuration may make."""

from __future__ import annotations

import ipaddress
from random import Random

from portproxy.model import Acl, DataPlaneChoice, Endpoint, Family, IPNetwork, Limits, Rule, RuleType
from portproxy.options import RULE_OPTIONS
from portproxy.options.kinds import YEAR

LETTERS = " ab1\"'\\#=;&%^`$?*\u00e9\u4fa6\U0001f389"
HOSTS = ["a.example", "db", "a_b.example.", "help", "reset", "ipv4.ipv6"]
ALWAYS = [option.name for option in RULE_OPTIONS]


def name(random: Random) -> str:
    return "".join(random.choices(LETTERS, k=random.randrange(1, 12))).strip() or "a"


def address(random: Random, family: Family) -> str:
    if family is Family.V4:
        return f"192.0.2.{random.randrange(1, 255)}"
    scope = "".join(chr(random.randrange(0x21, 0x7F)) for _ in range(random.randrange(1, 16)))
    scoped = f"fe80::1%{scope.translate({ord('/'): 'x', ord('%'): 'x'})}"
    return random.choice([f"2001:DB8::{random.randrange(1, 1 << 16):x}", "2001:db8:0:0:0:0:0:9", scoped])


def prefixes(random: Random, family: Family) -> tuple[IPNetwork, ...]:
    base, shortest, longest = ("10.0.0.0", 7, 32) if family is Family.V4 else ("2001:db8::", 32, 128)
    lengths = [random.randint(shortest, longest) for _ in range(random.randrange(4))]
    return tuple(ipaddress.ip_network(f"{base}/{length}") for length in lengths)


def duration(random: Random) -> float:
    return random.choice([60.0, 90.0, random.uniform(0.001, 9), random.randint(1, 10**6) / 1000, YEAR])


def some(random: Random, values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if random.random() < 0.4}


def rule(random: Random, listenport: int) -> Rule:
    """A rule that a configuration may make, with any of its options set to anything."""
    rule_type = random.choice([*RuleType])
    near, far = rule_type.listen_family, rule_type.connect_family
    listen = Endpoint(
        random.choice(["*", near.wildcard, address(random, near), random.choice(HOSTS)]), listenport
    )
    times = {
        key: random.choice([None, duration(random)])
        for key in ("idletimeout", "halfclosetimeout", "maxlifetime")
    }
    counts = {key: random.choice([None, random.randint(1, 10**9)]) for key in ("maxconn", "maxconnpersource")}
    options = {
        "limits": Limits(**some(random, {"connecttimeout": duration(random), **times, **counts})),  # type: ignore[arg-type]
        "acl": Acl(prefixes(random, near), prefixes(random, near)),
        "keepalive": random.choice([None, random.uniform(1, 32767)]),
        "usertimeout": random.choice([None, random.uniform(0.001, 596 * 3600)]),
        "connectsource": random.choice([None, address(random, far)]),
        "backlog": random.randint(1, 65535),
        "nodelay": random.random() < 0.5,
        "pipesize": random.randint(1 << 16, 1 << 20),
        "dataplane": random.choice([*DataPlaneChoice]),
    }
    return Rule(
        type=rule_type,
        listen=listen,
        connect=Endpoint(
            random.choice([address(random, far), random.choice(HOSTS)]), random.randint(2000, 65535)
        ),
        name=random.choice([f"{rule_type}/{listen}", f"{name(random)}{listenport}"]),
        **some(random, options),  # type: ignore[arg-type]
    )


def table(random: Random) -> tuple[Rule, ...]:
    return tuple(rule(random, listenport) for listenport in range(1000, 1000 + random.randrange(4)))
