"""Byte formats: decoders that take bytes and return values."""
