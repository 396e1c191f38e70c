"""Packets as bytes: read, checked, made. Pure; the one error about what a network sent is PacketError."""

from __future__ import annotations


class PacketError(ValueError):
    """These bytes are no such packet; the message says why, in one line."""
