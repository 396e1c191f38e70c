"""The vocabulary of ``netsh interface portproxy``: words in, values out, no I/O."""
