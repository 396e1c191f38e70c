"""What carries a tunnel's packets to the other end: raw sockets, UDP, streams."""
