"""A relay and the service behind it, run as configs/ says, on ports as written: in a network of their own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from tests.cli.shell import Shell

_SCRIPT = """
ip link set lo up
mount --bind hosts /etc/hosts
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
{service} &
portproxy serve {arguments} &
until {ready}; do sleep 0.1; done
curl --silent --fail --retry 5 --retry-connrefused {url}
"""


def fetched(
    shell: Shell,
    *,
    service: Sequence[str],
    ready: Sequence[str],
    url: str,
    hosts: str = "",
    environ: Mapping[str, str],
    arguments: Sequence[str] = (),
) -> str:
    """What ``url`` has, once the command ``ready`` succeeds.

    ``service`` runs, and a relay with ``arguments``. ``hosts`` are names that are 127.0.0.1.
    """
    (shell.directory / "hosts").write_text(f"127.0.0.1 localhost {hosts}\n")
    script = _SCRIPT.format(
        service=shlex.join(service),
        arguments=shlex.join(arguments),
        ready=shlex.join(ready),
        url=shlex.quote(url),
    )
    path = f"{shell.environ['PATH']}:/usr/sbin:/sbin"
    code, output, errors = shell.run(
        [
            *("timeout", "--kill-after=5", "60"),
            *("unshare", "--net", "--mount", "--map-root-user"),
            *("bash", "-euo", "pipefail", "-c", script),
        ],
        environ={**environ, "PATH": path},
    )
    assert code == 0, "\n".join(errors)
    return output
