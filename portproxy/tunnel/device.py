"""TUN: an interface whose other side is this program."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress

import trio

NODE = "/dev/net/tun"

# From linux/if_tun.h: ioctl(2) numbers and flags.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x8000
_REQUEST = struct.Struct("16sH22x")
"""struct ifreq (netdevice(7))."""
_PACKET = 65535
NAME_BYTES = 15
"""An interface's name has at most so many (IFNAMSIZ without the 0 at its end)."""


class Tun:
    """The interface ``name``, which is gone when it is closed, or this process is.

    Raises OSError: ENOENT or EACCES without /dev/net/tun, EPERM without CAP_NET_ADMIN, EBUSY where there is
    one of this name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd = os.open(NODE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(
                self._fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL)
            )
        except OSError:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)

    def read(self, most: int) -> list[bytes]:
        packets: list[bytes] = []
        with suppress(BlockingIOError):
            packets.extend(os.read(self._fd, _PACKET) for _ in range(most))
        return packets

    def write(self, packets: Sequence[bytes]) -> list[tuple[bytes, OSError]]:
        lost: list[tuple[bytes, OSError]] = []
        fd, write = self._fd, os.write
        for packet in packets:
            try:
                write(fd, packet)
            except OSError as error:
                lost.append((packet, error))
        return lost
