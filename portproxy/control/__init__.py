"""The control socket: a running relay answers commands on it."""
