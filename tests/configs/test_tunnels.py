"""The tunnels of configs/, README.md and docs/tunnels.md: both ends of each are run, in namespaces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from portproxy import config
from portproxy.tunnel.model import Tunnel
from tests.configs.written import CONFIGS, TOP
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import Lab, Node

README, GUIDE = TOP / "README.md", TOP / "docs/tunnels.md"

SAME = {
    "tunnel-6in4": "A configured tunnel",
    "tunnel-4in6": "IPv4 across an IPv6 network",
    "tunnel-6to4": "6to4",
    "tunnel-isatap": "ISATAP",
    "tunnel-v4compat": "Automatic tunnelling",
}
"""File -> the heading in README.md of the same tunnel."""


def written(file: Path, heading: str) -> str:
    """The configuration below ``heading``."""
    section = file.read_text(encoding="utf-8").partition(f"# {heading}\n")[2]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    (block,) = re.findall(r"^```toml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(block)


def example(name: str) -> str:
    """The file of configs/, whose inside interface is the laboratory's."""
    return (CONFIGS / f"{name}.toml").read_text(encoding="utf-8").replace('"eth1"', '"to-inside"')


def tunnels(text: str, directory: Path) -> tuple[Tunnel, ...]:
    (directory / "written.toml").write_text(text)
    return config.read(str(directory / "written.toml")).config().tunnels


def has(node: Node, literal: str) -> None:
    """An address of a network that is behind ``node``."""
    node.ip("address", "add", literal, "dev", "lo")


def internet(lab: Lab, **hosts: str) -> None:
    """Links each node to the node ``net``, which forwards IPv4 between them all."""
    lab["net"].forward()
    for name, literal in hosts.items():
        gate = literal.rpartition(".")[0] + ".254"
        lab[name].link(lab["net"], literal, gate)
        lab[name].route("default", gate)


def test_every_file_is_the_readmes(tmp_path: Path) -> None:
    assert {file.stem for file in CONFIGS.glob("tunnel-*.toml")} == SAME.keys()
    for name, heading in SAME.items():
        text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
        assert tunnels(text, tmp_path) == tunnels(written(README, heading), tmp_path)


@pytest.mark.parametrize(
    ("name", "heading", "ends", "behind", "inner"),
    [
        (
            *("tunnel-6in4", "The other end of a configured tunnel", "198.51.100.1 198.51.100.2"),
            *("2001:db8:2::1/48", "2001:db8:1::1 2001:db8:2::1"),
        ),
        (
            *("tunnel-4in6", "The other end of IPv4 across an IPv6 network", "2001:db8::1 2001:db8::2"),
            *("10.1.0.1/16", "10.0.0.1 10.1.0.1"),
        ),
        (
            *("tunnel-v4compat", "The other end of automatic tunnelling", "198.51.100.1 203.0.113.1"),
            *("", "::198.51.100.1 ::203.0.113.1"),
        ),
    ],
)
@in_own_namespaces
def test_two_ends(name: str, heading: str, ends: str, behind: str, inner: str) -> None:
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        here, there = ends.split()
        a.link(b, here, there)
        # As neighbours, whatever their prefixes are.
        a.ip("route", "replace", there, "dev", "to-b")
        b.ip("route", "replace", here, "dev", "to-a")
        if behind:
            has(b, behind)
        lab.serve((a, example(name)), (b, written(GUIDE, heading)))
        ours, theirs = inner.split()
        a.ping(theirs)
        b.ping(ours)


@in_own_namespaces
def test_6to4() -> None:
    """A site, a host and a relay: README's drawing."""
    with Lab("inside", "router", "net", "host", "relay", "native") as lab:
        inside, router, host, relay, native = (
            lab[name] for name in ("inside", "router", "host", "relay", "native")
        )
        internet(lab, router="198.51.100.1", host="203.0.113.1", relay="192.0.2.1")
        inside.link(router, "10.0.1.2", "10.0.1.1")
        native.link(relay, "2001:db8:31::2", "2001:db8:31::1")
        native.route("2002::/16", "2001:db8:31::1")
        router.forward()
        relay.forward()
        lab.serve(
            (relay, written(GUIDE, "A 6to4 relay")),
            (host, written(GUIDE, "A 6to4 host")),
            (router, example("tunnel-6to4")),
        )
        own = inside.until_address("to-router", "2002:c633:6401:1:")
        for there in ("2002:cb00:7101::cb00:7101", "2001:db8:31::2"):
            inside.ping(there)
        host.ping(own)
        host.ping("2001:db8:31::2")
        native.ping(own)


@in_own_namespaces
def test_isatap() -> None:
    with Lab("host", "router", "native") as lab:
        host, router, native = lab["host"], lab["router"], lab["native"]
        host.link(router, "10.40.1.29", "10.40.1.1")
        native.link(router, "2001:db8:31::2", "2001:db8:31::1")
        native.route("default", "2001:db8:31::1")
        router.forward()
        lab.serve((router, example("tunnel-isatap")))
        lab.serve((host, written(README, "A host of an ISATAP site")))
        host.until_address("site", "2001:db8:40:1:0:5efe:a28:11d")
        host.ping("2001:db8:31::2")
        native.ping("2001:db8:40:1:0:5efe:10.40.1.29")


@pytest.mark.parametrize(
    ("joined", "other", "own", "outside"),
    [
        ("ISATAP and 6to4", "A 6to4 host", "2002:c633:6401:100:0:5efe:a28:11d", "2002:cb00:7101::cb00:7101"),
        (
            *("ISATAP and a configured tunnel", "The other end of ISATAP and a configured tunnel"),
            *("2001:db8:40:1:0:5efe:a28:11d", "2001:db8:31::1"),
        ),
    ],
)
@in_own_namespaces
def test_isatap_joined(joined: str, other: str, own: str, outside: str) -> None:
    with Lab("host", "router", "net", "far") as lab:
        host, router, far = lab["host"], lab["router"], lab["far"]
        host.link(router, "10.40.1.29", "10.40.1.1")
        text = written(GUIDE, other)
        if "6to4" in other:
            internet(lab, router="198.51.100.1", far="203.0.113.1")
        else:
            router.link(far, "198.51.100.1", "198.51.100.2")
            has(far, f"{outside}/128")
        router.forward()
        lab.serve((far, text), (router, written(GUIDE, joined)))
        lab.serve((host, written(README, "A host of an ISATAP site")))
        host.until_address("site", own)
        host.ping(outside)
        far.ping(own)
