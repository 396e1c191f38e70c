"""A TCP relay between IP families, in the words of ``netsh interface portproxy``."""

__version__ = "0.1.0"
