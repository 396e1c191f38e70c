"""TUN: an interface whose other side is this program.

The kernel takes TCP segments many at a time: what a packet costs there, which is most of what it costs, is
then for dozens. To have it give them so as well brings nothing: to cut them, and to finish the checksums
that it then leaves, costs here what it saves there.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress

import trio

from portproxy.tunnel.packet.offload import HEADER, merge, split

NODE = "/dev/net/tun"

# From linux/if_tun.h: ioctl(2) numbers and flags.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x4000, 0x8000
_REQUEST = struct.Struct("16sH22x")
"""struct ifreq (netdevice(7))."""
_READ = HEADER + 65535
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
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
        try:
            fcntl.ioctl(self._fd, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
        except OSError:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)

    def read(self, most: int) -> list[bytes]:
        packets: list[bytes] = []
        fd, read = self._fd, os.read
        with suppress(BlockingIOError):
            packets.extend(read(fd, _READ)[HEADER:] for _ in range(most))
        return packets

    def write(self, packets: Sequence[bytes]) -> list[tuple[bytes, OSError]]:
        lost: list[tuple[bytes, OSError]] = []
        fd, write = self._fd, os.write
        for merged in merge(packets):
            try:
                write(fd, merged)
            except OSError as error:
                lost += [(packet, error) for packet in split(merged)]
        return lost
