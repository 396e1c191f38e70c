"""Sockets of the host: listening, dialling, names, who holds a port, descriptors."""
