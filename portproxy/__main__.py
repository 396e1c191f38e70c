"""``python -m portproxy``."""

from portproxy.cli import main

main()
