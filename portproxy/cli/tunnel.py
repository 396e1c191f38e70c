"""Tunnels, and the addresses that say where they lead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from portproxy.cli import options, proposals
from portproxy.cli.asking import ask, print_json, terminal_width, told
from portproxy.columns import columns
from portproxy.errors import ConfigError, printable, shown
from portproxy.options.kinds import nearest
from portproxy.wire.control_frames import Request

if TYPE_CHECKING:
    from portproxy.tunnel.addresses import Decoded, Found
    from portproxy.tunnel.report import TunnelsData

_HEAD = ("address", "kind", "parts", "what it is")


@click.group(invoke_without_command=True)
@click.pass_context
def tunnel(context: click.Context) -> None:
    """Look into tunnels, and into the addresses that say where they lead."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@tunnel.command()
@options.RELAYS_FILE
@options.RELAYS_CONTROL
@options.JSON
def show(path: str | None, control: str | None, as_json: bool) -> None:
    """Show how the tunnels of the running relay are set up."""
    from portproxy.tunnel.report import show_text

    data = _tunnels(path, control)
    if as_json:
        print_json({"tunnels": [{"name": one["name"], **one["settings"]} for one in data["tunnels"]]})
    else:
        click.echo(show_text(data, terminal_width()))


@tunnel.command()
@options.RELAYS_FILE
@options.RELAYS_CONTROL
@options.JSON
def status(path: str | None, control: str | None, as_json: bool) -> None:
    """Show what the tunnels do: state, ends, MTU, packets, bytes, and what was dropped, with the reason."""
    from portproxy.tunnel.report import status_text

    data = _tunnels(path, control)
    if as_json:
        print_json(data)
    else:
        click.echo(status_text(data, terminal_width()))


def _tunnels(path: str | None, control: str | None) -> TunnelsData:
    from portproxy.tunnel.report import TunnelsData

    return told(ask(options.server(path, control), Request("tunnels")), TunnelsData)


@tunnel.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@options.JSON
def decode(addresses: tuple[str, ...], as_json: bool) -> None:
    """Say what IPv6 addresses are, and which IPv4 addresses and ports are in them.

    Each is of one kind by its prefix, and may be of one more by its interface identifier. Ports are
    decimal, other numbers hexadecimal. Where the table is wider than the terminal, what it says of an
    address stands below that. The exit code is 2 where one is no address; the others are shown.
    """
    from portproxy.tunnel.addresses import AddressError, parse
    from portproxy.tunnel.addresses import decode as decoded

    found: list[Decoded] = []
    problems: list[str] = []
    for text in addresses:
        try:
            found.append(decoded(parse(text)))
        except AddressError as error:
            problems += error.lines
    if as_json:
        print_json({"addresses": [_data(one) for one in found]})
    elif found:
        click.echo("\n".join(_table(found, terminal_width())))
    if problems:
        raise ConfigError(problems)


@tunnel.command()
@click.argument("kind", metavar="KIND", shell_complete=proposals.address_kinds)
@click.argument("parts", metavar="PART=VALUE...", nargs=-1, shell_complete=proposals.address_parts)
@options.JSON
def encode(kind: str, parts: tuple[str, ...], as_json: bool) -> None:
    """Make an IPv6 address of its parts; the reverse of decode.

    KIND and PART=VALUE are what decode prints, as in
    'encode teredo server=65.54.227.120 port=40000 client=192.0.2.45'. Ports are decimal, other numbers
    hexadecimal: 'encode 6to4 ipv4=192.0.2.1 subnet=10' is for the site's subnet 16. A warning tells of
    an IPv4 address that makes no sense in that kind.

    These are the kinds with their parts; one in brackets is 0 where it is left out.

    \b
    unspecified, loopback
    v4mapped, v4compat, v4translated, nat64, 6over4: ipv4
    nat64-local: prefix ipv4
    discard, solicited-node: low
    teredo: server [flags] port client
    benchmarking, documentation, documentation-20, ietf, global: prefix [interface]
    ula-unassigned, link-local-reserved, site-local: prefix [interface]
    orchid: hash
    6to4: ipv4 [subnet] [interface]
    ula: globalid [subnet] [interface]
    link-local: [interface]
    multicast: [flags] scope group
    reserved: bits
    isatap: prefix [u] ipv4
    eui64: prefix mac
    """
    from portproxy.tunnel.addresses import KINDS
    from portproxy.tunnel.addresses import decode as decoded
    from portproxy.tunnel.addresses import encode as encoded

    if kind not in KINDS:
        raise ConfigError([f"{shown(kind)}: no such kind of address; {nearest(kind, KINDS)}"])
    made = decoded(encoded(KINDS[kind], _values(parts)))
    if as_json:
        print_json(_data(made))
        return
    click.echo(made.text)
    for note in (note for found in made.kinds for note in found.notes):
        click.echo(f"warning: {note}", err=True)


def _values(parts: Iterable[str]) -> dict[str, str]:
    """Raises ConfigError."""
    values: dict[str, str] = {}
    problems = []
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            problems.append(f"{shown(part)}: a part is written PART=VALUE")
        elif name in values:
            problems.append(f"{shown(part)}: {shown(name)} is given twice")
        else:
            values[name] = value
    if problems:
        raise ConfigError(problems)
    return values


def _table(found: list[Decoded], width: int | None) -> list[str]:
    """A row for each kind of each address. None is folded, which would break addresses apart: where one is
    wider than ``width`` characters, each address is a line, with its kinds below."""
    rows = columns([_HEAD, *((_written(one), *row) for one in found for row in map(_row, one.kinds))])
    if width is None or max(map(len, rows)) <= width:
        return rows
    margin = max(len(kind.kind.name) for one in found for kind in one.kinds)
    return [line for one in found for line in (_written(one), *_below(one, margin, width))]


def _written(decoded: Decoded) -> str:
    return decoded.text if decoded.zone is None else f"{decoded.text}%{printable(decoded.zone)}"


def _below(decoded: Decoded, margin: int, width: int) -> list[str]:
    cells = []
    for found in decoded.kinds:
        kind, parts, what = _row(found)
        cells += [(f"  {kind.ljust(margin)}", what)]
        cells += [("", parts)] if found.values else []
    return columns(cells, width)


def _row(found: Found) -> tuple[str, str, str]:
    """The kind, its parts as ``encode`` takes them, and what it is."""
    parts = " ".join(f"{name}={value}" for name, value in found.values.items())
    said = [*found.meanings.items(), *(("note", note) for note in found.notes)]
    more = "".join(f"; {name}: {text}" for name, text in said)
    return found.kind.name, parts or "-", f"{found.kind.what} ({found.kind.source}){more}"


def _data(decoded: Decoded) -> dict[str, Any]:
    return {
        "address": decoded.text,
        "zone": None if decoded.zone is None else printable(decoded.zone),
        "kinds": [
            {
                "kind": found.kind.name,
                "parts": found.values,
                "meanings": found.meanings,
                "notes": found.notes,
                "what": found.kind.what,
                "source": found.kind.source,
            }
            for found in decoded.kinds
        ],
        "embeds": [
            {"role": one.role, "address": str(one.address), "port": one.port} for one in decoded.embedded
        ],
    }
