"""Speed, measured beside the peers: ``python -m benchmarks``."""
