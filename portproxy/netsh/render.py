"""What netsh prints: ``show``, a table for people, and ``dump``, the commands that rebuild the table.

Byte for byte as Windows 10 prints them in English; it writes an empty line after every command.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from portproxy.model import ANY, Rule, RuleType, default_name
from portproxy.netsh.grammar import Command, Verb
from portproxy.options import option_tags

_COLUMNS = """\
Address         Port        Address         Port
--------------- ----------  --------------- ----------
"""

_DUMP = """\
#========================
# Port Proxy configuration
#========================
pushd interface portproxy

reset
{commands}

popd

# End of Port Proxy configuration
"""


def show(rules: Sequence[Rule], types: Collection[RuleType]) -> str:
    """The entries of ``types``: a block for each type that has any; addresses are never cut."""
    blocks = []
    for rule_type in RuleType:
        rows = [_row(rule) for rule in rules if rule.type is rule_type]
        if rows and rule_type in types:
            blocks.append(f"\n{_heading(rule_type)}\n\n{_COLUMNS}{''.join(rows)}")
    return "".join(blocks) + "\n"


def _heading(rule_type: RuleType) -> str:
    listens = f"Listen on ip{rule_type.listen_family.value}:"
    return f"{listens:<28}Connect to ip{rule_type.connect_family.value}:"


def _row(rule: Rule) -> str:
    listen, connect = rule.listen, rule.connect
    return f"{listen.address:<15} {listen.port:<10}  {connect.address:<15} {connect.port}\n"


def dump(rules: Sequence[Rule], always: Collection[str] = ()) -> str:
    """The commands that rebuild the table, options beyond netsh's included.

    Options that have their default are left out, unless ``always`` names them: where ``[defaults]`` sets
    them, leaving them out would not stand for portproxy's own default.
    """
    return _DUMP.format(commands="".join(f"{_added(rule, always)}\n" for rule in rules))


def _added(rule: Rule, always: Collection[str]) -> Command:
    """The command that makes ``rule``, its tags in netsh's order."""
    tags = {
        "listenport": str(rule.listen.port),
        "connectaddress": rule.connect.address,
        "connectport": str(rule.connect.port),
    }
    if rule.listen.address != ANY:
        tags["listenaddress"] = rule.listen.address
    if rule.name != default_name(rule.type, rule.listen):
        tags["name"] = rule.name
    for option in option_tags(rule, always):
        tag, _, value = option.partition("=")
        tags[tag] = value
    return Command(Verb.ADD, rule.type, tags)
