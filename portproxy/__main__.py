"""The process: ``portproxy`` on the path, and ``python -m portproxy``."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    # Until a command handles signals it has nothing to stop: Ctrl-C ends it as SIGTERM does, where Python's
    # handler would raise KeyboardInterrupt in the middle of an import. What was ignored (nohup(1)) stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from portproxy.cli import main

    main()


if __name__ == "__main__":
    main()
