"""The process: ``portproxy`` on the path, and ``python -m portproxy``."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn

_ALLOCATIONS = 10_000
"""Between two looks for garbage in reference cycles: with Python's 700 they are some eighty before the first
rule listens, in vain, and what relays leaves no cycles."""


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    # Until a command handles signals it has nothing to stop: Ctrl-C ends it as SIGTERM does, where Python's
    # handler would raise KeyboardInterrupt in the middle of an import. What was ignored (nohup(1)) stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(_ALLOCATIONS)
    from portproxy.cli import main

    main()


if __name__ == "__main__":
    main()
