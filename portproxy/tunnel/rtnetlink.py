"""A socket of rtnetlink(7), for as long as it takes to ask something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError


@contextmanager
def rtnetlink() -> Iterator[IPRoute]:
    """Each time a new one: an IPRoute leaves something behind in every thread that it is used in. Raises
    OSError with the kernel's errno, as what is asked of it does."""
    try:
        with IPRoute() as socket:
            yield socket
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
