"""Moving a session's bytes between its two sockets, through the kernel where it can be."""
