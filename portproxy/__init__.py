"""A TCP relay between IP families, in the words of ``netsh interface portproxy``."""

from typing import Final

__version__: Final = "0.1.0"
