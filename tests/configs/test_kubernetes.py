"""configs/kubernetes/: the API's schema takes them, and what one line says fits what another does."""

from __future__ import annotations

import posixpath
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from portproxy import __version__, config
from portproxy.model import Config, Family
from tests.cli.shell import Shell
from tests.configs.running import fetched
from tests.configs.written import CONFIGS, Table, check_command, check_page, documents, image, relay

FILES = sorted((CONFIGS / "kubernetes").glob("*.yaml"))
VERSIONS = ("1.29", "1.37")
"""The oldest with sidecars of its own, and the newest that kubernetes-validate knows."""
SIDECAR, DAEMONSET = CONFIGS / "kubernetes/sidecar.yaml", CONFIGS / "kubernetes/daemonset.yaml"

NODE_IP = "127.0.0.1"
"""Stands for status.hostIP."""


def validated(file: Path, version: str) -> tuple[int, list[str]]:
    """The exit code of the schema's check of ``file``, and what it says: a line for each document."""
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


@dataclass
class Manifest:
    """One file: its documents by kind, and the relay in it."""

    path: Path

    def __post_init__(self) -> None:
        found = documents(self.path)
        self.kinds: dict[str, Table] = {document["kind"]: document for document in found}
        assert len(self.kinds) == len(found)
        self.workload = self.kinds.get("Deployment") or self.kinds["DaemonSet"]
        self.template: Table = self.workload["spec"]["template"]
        self.pod: Table = self.template["spec"]
        self.data: Table = self.kinds["ConfigMap"]["data"]
        self.containers: list[Table] = self.pod.get("initContainers", []) + self.pod["containers"]
        (self.relay,) = (container for container in self.containers if container["name"] == "portproxy")
        self.ports: dict[str, int] = {port["name"]: port["containerPort"] for port in self.relay["ports"]}

    @property
    def environ(self) -> dict[str, str]:
        """The relay's environment, as the kubelet makes it."""
        environ: dict[str, str] = {}
        for source in self.relay.get("envFrom", []):
            assert source == {"configMapRef": {"name": self.kinds["ConfigMap"]["metadata"]["name"]}}
            environ |= self.data
        for variable in self.relay.get("env", []):
            if "value" in variable:
                environ[variable["name"]] = variable["value"].replace("$(NODE_IP)", NODE_IP)
            else:
                fact = {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
                assert variable == fact
        return environ

    @property
    def mounts(self) -> dict[str, Table]:
        """The volume at each path of the relay."""
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        return {mount["mountPath"]: volumes[mount["name"]] for mount in self.relay["volumeMounts"]}

    def told(self, directory: Path) -> Config:
        """What its relay runs; its files are put into ``directory``, as the kubelet mounts them."""
        return relay(self.environ, self.file(directory))

    def file(self, directory: Path) -> Path | None:
        """The file that the relay reads, put into ``directory``; None where there is none."""
        place, name = posixpath.split(config.DEFAULT_PATH)
        if place not in self.mounts:
            return None
        assert self.mounts[place]["configMap"] == {"name": self.kinds["ConfigMap"]["metadata"]["name"]}
        for key, text in self.data.items():
            (directory / key).write_text(text)
        return directory / name


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    """Each file of configs/kubernetes/."""
    return Manifest(request.param)


@pytest.fixture
def told(manifest: Manifest, tmp_path: Path) -> Config:
    """What its relay runs."""
    return manifest.told(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_schema_takes_it(file: Path, version: str) -> None:
    resources = [f"{found['kind'].lower()}/{found['metadata']['name']}" for found in documents(file)]
    passed = [f"INFO {file} passed for resource {which} against version {version}" for which in resources]
    assert validated(file, version) == (0, passed)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("hostNetwork:", "hostNetwrok:"),
        ("containerPort: 80}", "containerPort: http}"),
        ("{path: /readyz, port: status}", "{path: /readyz}"),
    ],
)
def test_the_schema_refuses_what_is_wrong(tmp_path: Path, right: str, wrong: str) -> None:
    text = DAEMONSET.read_text()
    assert text.count(right) == 1
    (tmp_path / "wrong.yaml").write_text(text.replace(right, wrong))
    code, lines = validated(tmp_path / "wrong.yaml", VERSIONS[-1])
    assert code == 1
    assert "ERROR" in lines[-1]


def test_a_rule_listens_on_each_port_over_ipv6(manifest: Manifest, told: Config) -> None:
    assert told.server.status
    listening = {rule.name: rule.listen.port for rule in told.rules}
    assert manifest.ports == {**listening, "status": told.server.status.port}
    assert all(rule.type.listen_family is Family.V6 and rule.wildcard for rule in told.rules)
    assert all(rule.type.connect_family is Family.V4 for rule in told.rules)


def test_a_port_below_1024_has_its_capability(manifest: Manifest, told: Config) -> None:
    needed = ["NET_BIND_SERVICE"] if any(rule.listen.port < 1024 for rule in told.rules) else None
    assert manifest.relay["securityContext"]["capabilities"].get("add") == needed


def test_probes_ask_what_is_there(manifest: Manifest) -> None:
    probes = [manifest.relay[kind] for kind in ("readinessProbe", "livenessProbe") if kind in manifest.relay]
    assert "readinessProbe" in manifest.relay
    for probe in probes:
        if "exec" in probe:
            check_command(probe["exec"]["command"], probe["timeoutSeconds"])
        else:
            check_page(probe["httpGet"]["path"])
            assert probe["httpGet"]["port"] == "status"
            assert "status" in manifest.ports


def test_prometheus_asks_the_status_endpoint(manifest: Manifest) -> None:
    annotations = manifest.template["metadata"]["annotations"]
    check_page(annotations["prometheus.io/path"])
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == str(manifest.ports["status"])


def test_sessions_may_drain(manifest: Manifest, told: Config) -> None:
    assert manifest.pod["terminationGracePeriodSeconds"] > told.server.draintimeout


def test_it_runs_as_the_image_does(manifest: Manifest) -> None:
    user, group, control = image()
    context = manifest.pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (user, group)
    assert manifest.relay["image"] == f"portproxy:{__version__}"
    assert manifest.mounts[posixpath.dirname(control)]["emptyDir"]["medium"] == "Memory"
    assert "PORTPROXY_CONTROL" not in manifest.environ


def test_it_is_confined(manifest: Manifest) -> None:
    """As the Pod Security Standard "restricted" wants it, but for the node's network."""
    assert manifest.pod["securityContext"]["runAsNonRoot"] is True
    assert manifest.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert manifest.pod["automountServiceAccountToken"] is False
    for container in manifest.containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"].keys() == {"memory"}


def test_selectors_find_the_pods(manifest: Manifest) -> None:
    labels = manifest.template["metadata"]["labels"]
    assert manifest.workload["spec"]["selector"]["matchLabels"] == labels
    if service := manifest.kinds.get("Service"):
        assert service["spec"]["selector"] == labels


def test_the_service_leads_to_the_rule_over_ipv6() -> None:
    manifest = Manifest(SIDECAR)
    service = manifest.kinds["Service"]["spec"]
    assert (service["ipFamilyPolicy"], service["ipFamilies"]) == ("SingleStack", ["IPv6"])
    (port,) = service["ports"]
    assert port["targetPort"] in manifest.ports.keys() - {"status"}


def test_the_sidecar_is_kubernetes_own() -> None:
    manifest = Manifest(SIDECAR)
    assert manifest.relay in manifest.pod["initContainers"]
    assert manifest.relay["restartPolicy"] == "Always"


def test_the_daemonset_is_in_the_nodes_network() -> None:
    """Where a name of the cluster is known only by this policy."""
    pod = Manifest(DAEMONSET).pod
    assert pod["hostNetwork"] is True
    assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"


def test_the_pod_with_a_sidecar_answers(portproxy: Shell) -> None:
    manifest = Manifest(SIDECAR)
    (application,) = manifest.pod["containers"]
    (rule,) = manifest.told(portproxy.directory).rules
    page = fetched(
        portproxy,
        service=application["command"],
        environ=manifest.environ,
        ready=manifest.relay["readinessProbe"]["exec"]["command"],
        url=f"http://[::1]:{manifest.ports['web']}/",
    )
    assert application["command"][-1] == str(rule.connect.port)
    assert "Directory listing" in page


def test_a_node_of_the_daemonset_answers(portproxy: Shell) -> None:
    manifest = Manifest(DAEMONSET)
    (rule,) = manifest.told(portproxy.directory).rules
    status = f"http://{NODE_IP}:{manifest.ports['status']}"
    page = fetched(
        portproxy,
        service=["python", "-m", "http.server", "--bind", "127.0.0.1", str(rule.connect.port)],
        hosts=rule.connect.address,
        environ=manifest.environ,
        arguments=["-c", str(manifest.file(portproxy.directory))],
        ready=["curl", "--silent", "--fail", status + manifest.relay["readinessProbe"]["httpGet"]["path"]],
        url=f"http://[::1]:{manifest.ports['web']}/",
    )
    assert "Directory listing" in page
