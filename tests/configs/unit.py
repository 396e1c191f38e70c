"""A unit file of systemd: what it says, and how it confines.

``python unit.py FILE COMMAND...`` runs a command under the system-call filters of FILE and its
drop-ins, without systemd, and more strictly: what systemd would refuse ends the process with SIGSYS,
so that nothing passes over it unseen.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

Directives = dict[str, list[str]]

# seccomp_init(3), seccomp_rule_add(3)
_KILL, _ALLOW, _EPERM = 0x80000000, 0x7FFF0000, 0x00050001
_MASKED_EQUAL = 7


def directives(text: str) -> Directives:
    """The values of each key, in their order; no key of this project's unit is in two sections."""
    lines = re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE)
    found: Directives = {}
    for key, value in lines:
        found.setdefault(key, []).append(value)
    return found


def whole(file: Path) -> str:
    """The unit ``file`` and its drop-ins (systemd.unit(5))."""
    drop_ins = sorted(file.with_name(f"{file.name}.d").glob("*.conf"))
    return "".join(one.read_text(encoding="utf-8") for one in (file, *drop_ins))


def _groups() -> dict[str, list[str]]:
    """The members of every group of system calls: calls, and other groups."""
    said = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    members: list[str] = []
    for line in said.stdout.splitlines():
        if line.startswith("@"):
            members = found.setdefault(line, [])
        elif line.startswith("    ") and not line.startswith("    #"):
            members.append(line.strip())
    return found


def _calls(names: list[str], groups: dict[str, list[str]]) -> Iterator[str]:
    for name in names:
        if name.startswith("@"):
            yield from _calls(groups[name], groups)
        else:
            yield name


def allowed(filters: list[str]) -> set[str]:
    """The system calls that SystemCallFilter= leaves: systemd.exec(5)."""
    groups = _groups()
    first, *others = filters
    left = {*_calls(first.split(), groups), *_calls(["@default"], groups)}
    for other in others:
        assert other.startswith("~")
        left -= {*_calls(other[1:].split(), groups)}
    return left


class _Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def _masked(argument: int, mask: int, value: int) -> _Compare:
    return _Compare(argument, _MASKED_EQUAL, mask, value)


def _conditions(unit: Directives) -> dict[str, list[_Compare]]:
    """Calls that are allowed for some arguments only: where one of the conditions is met."""
    families = [getattr(socket, name) for name in unit["RestrictAddressFamilies"][-1].split()]
    found = {"socket": [_masked(0, 0xFFFFFFFF, family) for family in families]}
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        both = mmap.PROT_WRITE | mmap.PROT_EXEC
        found["mmap"] = [_masked(2, both, value) for value in (0, mmap.PROT_WRITE, mmap.PROT_EXEC)]
        found["mprotect"] = [_masked(2, mmap.PROT_EXEC, 0)]
    return found


def confine(unit: Directives) -> None:
    """Confine this process, and what it will execute, for good.

    As SystemCallFilter=, RestrictAddressFamilies= and MemoryDenyWriteExecute= say: systemd.exec(5).
    """
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_KILL))
    conditions = _conditions(unit)
    # A relay asks for what it is permitted; here it has that already, and passes over the refusal.
    capset = library.seccomp_syscall_resolve_name(b"capset")
    assert not library.seccomp_rule_add_array(context, _EPERM, capset, 0, None)
    for call in allowed(unit["SystemCallFilter"]):
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # another architecture's
            continue
        for condition in conditions.get(call, [None]):
            count, pointer = (1, ctypes.byref(condition)) if condition else (0, None)
            assert not library.seccomp_rule_add_array(context, _ALLOW, number, count, pointer)
    assert not library.seccomp_load(context)


if __name__ == "__main__":
    confine(directives(whole(Path(sys.argv[1]))))
    os.execvp(sys.argv[2], sys.argv[2:])
