# syntax=docker/dockerfile:1
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /src
COPY . .
# The interpreter is copied, not linked, because it is marked below.
# For tunnels the last word is '.[tunnel]': docs/tunnels.md says how to run that.
RUN python -m venv --copies --without-pip /opt/portproxy \
 && pip --python /opt/portproxy install --no-cache-dir --no-compile --constraint tests/constraints.txt .

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="portproxy" \
      org.opencontainers.image.description="A TCP relay between IP families" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/portproxy /opt/portproxy
# Python's image brings its library uncompiled: where nothing can be written, every health check would compile it
# again, and take three times as long. By hash, because not every builder keeps the times of files.
RUN pip uninstall --yes --root-user-action=ignore pip \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/local/lib/python3.* /opt/portproxy/lib \
 && install -d -o 65532 -g 65532 -m 0700 /run/portproxy
# Ports below 1024, by capability: what setcap(8), which is not here, writes for cap_net_bind_service=p. Permitted
# and not effective, so that it starts under --cap-drop=ALL too; portproxy makes it effective. In this stage,
# because COPY may lose it. It is for --network=host, and wherever else ip_unprivileged_port_start is not 0 as
# Docker (since 20.10) and containerd under Kubernetes (since 2.0) set it. no-new-privileges may take it away.
RUN python -c "import os, struct; os.setxattr('/opt/portproxy/bin/python', 'security.capability', \
    struct.pack('<5I', 0x02000000, 1 << 10, 0, 0, 0))"

ENV PATH=/opt/portproxy/bin:$PATH \
    PORTPROXY_CONTROL=/run/portproxy/control.sock
# The control socket is all that is written of itself: with this, --read-only needs nothing else.
VOLUME ["/run/portproxy"]
USER 65532:65532

STOPSIGNAL SIGTERM
# The client gives up after 2 s, and says why.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["portproxy", "health"]
ENTRYPOINT ["portproxy"]
CMD ["serve"]
