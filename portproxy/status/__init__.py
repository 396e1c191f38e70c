"""The status endpoint: /metrics, /healthz and /readyz over HTTP."""
