"""The shape of the code: imports point downward, pure rooms stay pure, files and functions stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "portproxy"

PURE_ROOMS: tuple[frozenset[str], ...] = (
    frozenset({"__init__"}),
    frozenset({"errors", "reasons"}),
    frozenset({"tunnel"}),
    frozenset({"model"}),
    frozenset({"counters", "snapshot"}),
    frozenset({"options", "loops", "wire", "reconcile", "admission"}),
    frozenset({"netsh"}),
    frozenset({"config"}),
)
"""Rooms that take values and return values: no I/O, no clock, no randomness."""

ROOMS: tuple[frozenset[str], ...] = (
    *PURE_ROOMS,
    frozenset({"sink", "log", "tallies", "metrics", "columns", "store"}),
    frozenset({"accesslog", "table", "report"}),
    frozenset({"logs", "net", "dataplane"}),
    frozenset({"tunnel.rtnetlink"}),
    frozenset({"tunnel.device", "tunnel.carrier", "tunnel.interface", "tunnel.routing", "tunnel.report"}),
    frozenset({"relay", "tunnel.endpoint", "tunnel.lan", "tunnel.naming", "tunnel.testing"}),
    frozenset({"workers", "status", "control", "tunnel.advertising", "tunnel.reception"}),
    frozenset({"tunnel.making", "tunnel.causes"}),
    frozenset({"tunnel.course"}),
    frozenset({"tunnel.running"}),
    frozenset({"tunnel.tunnels"}),
    frozenset({"supervisor"}),
    frozenset({"explain", "changes"}),
    frozenset({"handlers"}),
    frozenset({"serve"}),
    frozenset({"demo"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""Bottom to top. A room is a module or a package right under ``portproxy``; it imports itself and
what lies in lower rows, never a neighbour in its own row. A module that is named here behind its
package is a room by itself: it does what the package otherwise may not."""

IMPURE_MODULES = {
    *("asyncio", "fcntl", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select"),
    *("selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("click", "h11", "prometheus_client", "rich", "structlog", "trio"),
}

PURE_EXCEPTIONS = {
    ("model", "socket"): "the constants AF_INET and AF_INET6, and inet_pton",
    ("options", "socket"): "getservbyname: netsh takes service names for ports",
}
"""(room, module) -> why a pure room may import it."""

LAZY = {
    *("h11", "prometheus_client", "rich", "tomli", "tomlkit"),
    *(
        "portproxy.explain",
        "portproxy.tunnel.addresses",
        "portproxy.tunnel.tunnels",
        "portproxy.config.tunnels",
    ),
    "pyroute2",
}
"""What a plain ``serve`` (text logs, no file, no status endpoint) must not pay for."""

MOST_LINES_A_FILE = 400
MOST_LINES_A_FUNCTION = 40

LONG: dict[str, str] = {}
"""``path`` or ``path:qualified.name`` -> why it is longer than others may be."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def sources() -> list[Path]:
    return [*modules(), *sorted((TOP / "tests").rglob("*.py")), *sorted((TOP / "benchmarks").rglob("*.py"))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    """The dotted name of a module's file, that of its package for an ``__init__.py``."""
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = TOP.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def room_of(name: str) -> str:
    """The room of a dotted name; names that the package itself defines belong to ``__init__``."""
    parts = name.split(".")
    inner = ".".join(parts[1:3])
    if any(inner in rooms for rooms in ROOMS):
        return inner
    return parts[1] if len(parts) > 1 and is_module(".".join(parts[:2])) else "__init__"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every module imported in ``path``, at whatever depth."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            members = (f"{source}.{alias.name}" for alias in node.names)
            yield from {(node.lineno, member if is_module(member) else source) for member in members}


def row_of(room: str) -> int:
    for row, rooms in enumerate(ROOMS):
        if room in rooms:
            return row
    pytest.fail(f"portproxy.{room} has no place: put it into ROOMS of {Path(__file__).name}")


def test_imports_point_downward() -> None:
    wrong = []
    for path in modules():
        here = room_of(name_of(path))
        for line, name in imports(path):
            if name.split(".")[0] != "portproxy" or room_of(name) == here:
                continue
            there = room_of(name)
            if row_of(there) >= row_of(here):
                where = f"{path.relative_to(TOP)}:{line}"
                wrong.append(f"{where}: {here} -> {there} ({name}) points up or sideways")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_place() -> None:
    for path in modules():
        row_of(room_of(name_of(path)))


def test_pure_rooms_do_no_io() -> None:
    found: dict[tuple[str, str], str] = {}
    for path in modules():
        room = room_of(name_of(path))
        if row_of(room) < len(PURE_ROOMS):
            for line, name in imports(path):
                found[room, name.split(".")[0]] = f"{path.relative_to(TOP)}:{line}"
    impure = {pair: where for pair, where in found.items() if pair[1] in IMPURE_MODULES}
    wrong = [
        f"{impure[pair]}: pure room {pair[0]} imports {pair[1]}" for pair in impure.keys() - PURE_EXCEPTIONS
    ]
    assert not wrong, "\n".join(wrong)
    assert PURE_EXCEPTIONS.keys() <= impure.keys(), "not needed any more: take it out of PURE_EXCEPTIONS"


def lengths(path: Path) -> Iterator[tuple[str, int, int]]:
    """``path`` or ``path:qualified.name``, its lines, and how many it may have."""
    where = str(path.relative_to(TOP))
    yield where, len(path.read_text(encoding="utf-8").splitlines()), MOST_LINES_A_FILE
    waiting: list[tuple[str, ast.AST]] = [("", tree(path))]
    while waiting:
        prefix, parent = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            inner = prefix
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{prefix}{node.name}."
                if not isinstance(node, ast.ClassDef):
                    yield f"{where}:{prefix}{node.name}", span(node), MOST_LINES_A_FUNCTION
            waiting.append((inner, node))


def span(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_and_functions_are_short() -> None:
    over = {
        where: f"{n} lines, {most} at most"
        for path in sources()
        for where, n, most in lengths(path)
        if n > most
    }
    assert {where: said for where, said in over.items() if where not in LONG} == {}
    assert [where for where in LONG if where not in over] == [], "no longer long: take it out of LONG"


def test_types_are_for_others_too() -> None:
    """PEP 561: without this file a type checker does not look at the annotations."""
    assert (PACKAGE / "py.typed").is_file()


def test_a_plain_serve_imports_only_what_it_needs() -> None:
    code = "import sys, portproxy.cli, portproxy.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert LAZY & set(done.stdout.split()) == set(), "imported before it is needed"
