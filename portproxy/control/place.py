"""Where the control socket is when nobody says so."""

from __future__ import annotations

import os
from collections.abc import Mapping

from portproxy.config import DefaultControl
from portproxy.errors import printable
from portproxy.options.addresses import SOCKET_PATH
from portproxy.options.kinds import RefusedError

ROOT_DIRECTORY = "/run/portproxy"
"""Of the relays of root, and made where it is missing; no other directory is."""


def default_control(euid: int, environ: Mapping[str, str]) -> DefaultControl:
    """Root's place, or the session's (XDG_RUNTIME_DIR); none, with a warning, where it cannot be used.

    A relay works without it, so a place that nobody asked for is no reason to fail.
    """
    if euid == 0:
        path = f"{ROOT_DIRECTORY}/control.sock"
    elif environ.get("XDG_RUNTIME_DIR"):
        path = f"{environ['XDG_RUNTIME_DIR']}/portproxy.sock"
    else:
        return DefaultControl(None, "control is off: XDG_RUNTIME_DIR is not set; name a path with --control")
    if _usable(path):
        return DefaultControl(path)
    told = f"control is off: no socket can be made at {printable(path)}; name another place with --control"
    return DefaultControl(None, told)


def _usable(path: str) -> bool:
    try:
        SOCKET_PATH.convert(path)
    except RefusedError:
        return False
    directory = os.path.dirname(path)
    if directory == ROOT_DIRECTORY and not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return os.access(directory, os.W_OK | os.X_OK)
