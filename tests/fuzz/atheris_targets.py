"""What ``run_atheris`` fuzzes: how bytes become arguments, and inputs to begin with."""

from __future__ import annotations

import json
from pathlib import Path

from portproxy import config
from portproxy.config.editor import Clear, Edit, Put, Remove
from portproxy.wire import worker_frames
from portproxy.wire.control_frames import Change, Line, Reply, Request, encode
from tests.fuzz import checks
from tests.fuzz.atheris_automatic import AUTOMATIC_TARGETS
from tests.fuzz.atheris_tunnels import TUNNEL_TARGETS
from tests.fuzz.target import Target, pieces
from tests.fuzz.test_config import made_or_refused
from tests.fuzz.test_editor import changed_or_refused
from tests.fuzz.test_worker_frames import REPLIES

SAMPLES = Path(__file__).parents[1] / "unit" / "netsh_samples"


def _text(data: bytes) -> str:
    """As the command line and the environment are decoded: any bytes are a text."""
    return data.decode("utf-8", "surrogateescape")


def _edits(data: bytes) -> None:
    """Lines of edits up to an empty one, then the document."""
    head, _, text = data.decode("utf-8", "replace").partition("\n\n")
    changed_or_refused(text, [_edit(line) for line in head.split("\n")])


def _edit(line: str) -> Edit:
    kind, *rest = line.split("|")
    if kind == "clear":
        return Clear()
    key = (rest[0] if rest else "v4tov4", "*", 80)
    if kind == "remove":
        return Remove(key)
    tags = dict(zip(rest[1::2], rest[2::2], strict=False))
    return Put(key, {"type": key[0], "listenport": key[2], **tags})


_RULE = '[[rule]] # first\ntype = "v4tov4"\nlistenport = 80 # web\nallow = ["10.0.0.0/8"]\n'
_REQUEST = Request(
    "change", {"": ""}, Change((Line("add", "v6tov4", {"name": "B\u00fcro"}, "line 1"),), False)
)
_REPLY = Reply(False, 'a "quoted"\nline \0', {"listening": 2**63 - 1, "list": [None, 1.5, {"": True}]})
_WORKER_REPLIES = [worker_frames.encode_reply(reply) for reply in REPLIES]
_COMMANDS = (
    "netsh\ninterface\nportproxy\nadd\nv4tov4\nlistenport=80\nconnectaddress=a.example\nprotocol=tcp",
    "set\nv6tov4\n80\n127.0.0.1\n8080\n*\nmaxconn=100\nallow=10.0.0.0/8",
    "d\nv4tov6\nhttp\n0.0.0.0",
    "in\np\nshow\nall\n?",
    "reset",
    "add\nhelp",
)
_RULES = (
    "v6tov4 8080 127.0.0.1 80",
    "netsh int portproxy add v4tov4 listenport=1024 'name=my \"web\"' connectport=1\\ 0",
)

TARGETS = {
    "frames": Target(
        lambda data: checks.frames(pieces(data)),
        [b"\1\3\0" + encode(_REQUEST) + encode(_REPLY), b"\xff\0\0\0\0\0\0\0\1\x2d"],
    ),
    "messages": Target(checks.message, [encode(_REQUEST)[4:], encode(_REPLY)[4:]]),
    "worker-frames": Target(
        lambda data: checks.worker_stream(pieces(data)),
        [b"\1\3\0" + b"".join(map(worker_frames.frame, _WORKER_REPLIES)), b"\xff\0\0\0\1\x2c\1"],
    ),
    "worker-replies": Target(checks.worker_reply, _WORKER_REPLIES),
    "rules": Target(lambda data: checks.rule(_text(data)), [text.encode() for text in _RULES]),
    "commands": Target(
        lambda data: checks.command(_text(data).split("\n")), [text.encode() for text in _COMMANDS]
    ),
    "importer": Target(
        checks.imported,
        [
            *(path.read_bytes() for path in sorted(SAMPLES.glob("*.txt"))),
            *(text.replace("\n", " ").encode("utf-16") for text in _COMMANDS),
        ],
    ),
    "config": Target(
        lambda data: made_or_refused(lambda: config.parse(data.decode("utf-8", "replace"), "portproxy.toml")),
        [_RULE.encode(), b'[server]\ndraintimeout = "5s"\n[defaults]\nmaxconn = 9\n' + _RULE.encode()],
    ),
    "editor": Target(
        _edits,
        [
            f"{edits}\n\n{text}".encode()
            for edits in ("clear", "remove|v4tov4", "put|v4tov4|name|web\nput|v6tov4|maxconn|9")
            for text in (
                _RULE,
                f"rule = [{json.dumps('x')}]",
                "rule = [\n {type = 'v4tov4', listenport = 80}, # c\n]",
            )
        ],
    ),
    **TUNNEL_TARGETS,
    **AUTOMATIC_TARGETS,
}
