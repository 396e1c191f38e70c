"""netsh's words, as people type and paste them."""

from __future__ import annotations

import pytest

from portproxy.netsh.grammar import GrammarError, parse_rule

PORT_23 = {"type": "v6tov4", "listenport": "23"}
TYPE_FIRST = "a rule begins with its type, one of v4tov4, v4tov6, v6tov4, v6tov6"
LEAVE_OUT = "leave the tag out where the default is meant"
FULL = {
    "type": "v4tov6",
    "listenport": "80",
    "connectaddress": "::1",
    "connectport": "81",
    "listenaddress": "192.0.2.1",
    "protocol": "tcp",
}


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("v6tov4 23", PORT_23),
        ("V6ToV4 ListenPort=23", PORT_23),
        ("v4tov6 80 ::1 81 192.0.2.1 tcp", FULL),
        ("v4tov6 protocol=tcp connectport=81 80 ::1 listenaddress=192.0.2.1", FULL),
        ("netsh interface portproxy add v6tov4 23", PORT_23),
        ("Netsh int PortProxy Set v6tov4 23", PORT_23),
        ("portproxy add v6tov4 23", PORT_23),
        ("add v6tov4 23", PORT_23),
        ("v6tov4 23 name='my web' maxconn=5", {**PORT_23, "name": "my web", "maxconn": "5"}),
        ('v6tov4 23 "name=a=b"', {**PORT_23, "name": "a=b"}),
        ("nonsense", {"type": "nonsense"}),
    ],
)  # fmt: skip
def test_commands(text: str, tags: dict[str, str]) -> None:
    assert parse_rule(text) == tags


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", '"": ' + TYPE_FIRST),
        ("add", '"add": ' + TYPE_FIRST),
        ("delete v4tov4 80", '"delete v4tov4 80": delete adds no rule; ' + TYPE_FIRST),
        ("netsh int portproxy SHOW all", '"netsh int portproxy SHOW all": show adds no rule; ' + TYPE_FIRST),
        ("listenport=1", '"listenport=1": ' + TYPE_FIRST),
        ("v6tov4 'x", "\"v6tov4 'x\": no closing quotation; a quote ends with the same quote"),
        ("v6tov4 x\\", '"v6tov4 x\\": no escaped character; a quote ends with the same quote'),
        ("v6tov4 1 listenport=2", 'listenport = "2": given already as "1"; leave one out'),
        ("v6tov4 name=a NAME=b", 'name = "b": given already as "a"; leave one out'),
        ("v6tov4 type=v4tov4", 'type = "v4tov4": given already as "v6tov4"; leave one out'),
        ("v6tov4 1 2 3 4 tcp 6", '"6": a word too many; further options are written as tag=value'),
        ("v6tov4 =1", '"=1": no tag before the =; a tag is written as tag=value'),
        ("v6tov4 1 connectaddress=", '"connectaddress": no value; ' + LEAVE_OUT),
        ("v6tov4 ''", '"listenport": no value; ' + LEAVE_OUT),
        ("v6tov4 =\n", '"=": no tag before the =; a tag is written as tag=value'),
        ("v6tov4 1 '2=\n3' '2=\n4'", '2 = "\\n4": given already as "\\n3"; leave one out'),
    ],
)  # fmt: skip
def test_refused_commands(text: str, line: str) -> None:
    with pytest.raises(GrammarError) as raised:
        parse_rule(text)
    assert raised.value.lines == (line,)
    assert raised.value.exit_code == 2
