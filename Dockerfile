# syntax=docker/dockerfile:1
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY . .
# The venv has no pip of its own. Modules are compiled here: the image may run where nothing can be written.
RUN python -m venv --without-pip /opt/portproxy \
 && pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
 && pip --python /opt/portproxy install --no-cache-dir --compile \
        --constraint tests/constraints.txt /wheel/*.whl

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="portproxy" \
      org.opencontainers.image.description="A TCP relay between IP families" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/portproxy /opt/portproxy
# With --read-only, give the control socket a place: --tmpfs /run/portproxy:uid=65532,mode=0700
RUN install -d -o 65532 -g 65532 -m 0700 /run/portproxy
ENV PATH=/opt/portproxy/bin:$PATH \
    PORTPROXY_CONTROL=/run/portproxy/control.sock \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Ports below 1024 need no capability here: Docker (since 20.10) and containerd under Kubernetes (since 2.0)
# set net.ipv4.ip_unprivileged_port_start=0 in a container's network namespace, which holds for IPv6 too.
# Elsewhere, and with --network=host, it is the administrator's to set. A file capability on the
# interpreter would serve every script, and the interpreter would not start under --cap-drop=ALL.
USER 65532:65532

STOPSIGNAL SIGTERM
# The client gives up after 2 s, and says why.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["portproxy", "health"]
ENTRYPOINT ["portproxy"]
CMD ["serve"]
