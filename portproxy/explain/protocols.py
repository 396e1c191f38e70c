"""Protocols that put addresses into their messages, or need more connections than one. Pure."""

from __future__ import annotations

from portproxy.explain.explanation import Outcome, Step
from portproxy.model import Rule

_SIP = (
    "SIP (RFC 3261) names addresses in Via, Contact and its session descriptions (RFC 8866); media is UDP",
    "use a SIP proxy or border controller that knows both families",
)

KNOWN: dict[int, tuple[str, str]] = {
    21: (
        "FTP (RFC 959) names addresses in PORT and PASV, and has a connection of its own for each transfer",
        "let clients use EPSV (RFC 2428), which names no address, and give its data ports rules too",
    ),
    111: (
        "the portmapper (RFC 1833) tells clients at which port each service is",
        "those ports need rules too, under the same numbers",
    ),
    135: (
        "the endpoint mapper of DCE and Microsoft RPC sends clients on to another port",
        "pin the service to a port, and relay that under the same number",
    ),
    554: (
        "RTSP (RFC 7826, RFC 2326) agrees on addresses and ports in Transport; media goes by UDP by default",
        "let clients ask for media inside the connection (interleaved; RFC 7826, 14)",
    ),
    1720: (
        "H.323 call signalling (ITU-T H.225.0) names addresses, and has more connections for H.245 and media",
        "use a gatekeeper or gateway that knows both families",
    ),
    1723: (
        "PPTP (RFC 2637) carries its data in GRE, IP protocol 47, which is no TCP",
        "only the control connection can pass; use another tunnel",
    ),
    5060: _SIP,
    5061: _SIP,
}
"""By registered port: what the relay, which does not look into a stream, cannot mend; and what to do."""


def protocol(rule: Rule) -> Step:
    """A hint where the rule's ports are those of such a protocol."""
    for port in (rule.connect.port, rule.listen.port):
        if port in KNOWN:
            text, advice = KNOWN[port]
            return Step("protocol", Outcome.WARNING, f"port {port}: {text}", advice=advice)
    return Step("protocol", Outcome.OK, "its ports are of no protocol known to carry addresses inside")
