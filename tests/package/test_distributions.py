"""sdist and wheel: what is in them, that they can be had again, and that what they install runs anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
import trio

import portproxy
from tests.cli.shell import PORTPROXY, Shell, free_port, stopped

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RELEASE = f"portproxy-{portproxy.__version__}"

FOLDERS = (".ci", "benchmarks", "configs", "docs", "portproxy", "tests")
FILES = (
    *(".dockerignore", ".editorconfig", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md"),
    *("CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
)
"""With FOLDERS: what it takes to build, to test and to read."""

JUNK = (
    *(".git/config", ".hypothesis/tmp/x", ".mypy_cache/x.json", ".pytest_cache/x", ".ruff_cache/x"),
    *(".venv/bin/python", "build/x", "dist/x.whl", "notes.txt", "portproxy.egg-info/PKG-INFO"),
    *("portproxy/__pycache__/cli.cpython-311.pyc", "tests/unit/__pycache__/x.pyc", "tests/.pytest_cache/x"),
)
"""What use leaves in a checkout."""

STARTS = ("bin/portproxy",), ("bin/python", "-I", "-m", "portproxy")
"""How portproxy is started from an environment that it was installed in."""

TELL_WHERE = "import sys; print(sys.modules['portproxy'].__file__); raise SystemExit"


def run(*words: str | Path, cwd: Path) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def build(target: str, source: Path, into: Path) -> Path:
    """The distribution that hatchling makes of the tree ``source``, in ``into``, which holds nothing else."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into, cwd=source)
    (made,) = into.iterdir()
    return made


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file but caches, by its path from ``folder``."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in found.items()
        if not any(part.startswith((".", "__pycache__")) for part in name.parts)
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", TOP, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that is in the sdist, all of it under the release's name."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    assert tree.name == RELEASE
    return tree


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    """The wheel's files by name."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(contents: dict[str, bytes]) -> Message:
    return BytesParser().parsebytes(contents[f"{RELEASE}.dist-info/METADATA"])


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are those of the tests, after it on the path."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", home)
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=home)
    (module,) = home.glob("lib/python*/site-packages/portproxy")
    (module.parent / "dependencies.pth").write_text(f"{Path(trio.__file__).parents[1]}\n", encoding="utf-8")
    return home


@pytest.fixture(params=STARTS, ids=" ".join)
def installed(request: pytest.FixtureRequest, environment: Path) -> list[str]:
    """Each way to start what the wheel installed."""
    program, *words = request.param
    return [str(environment / program), *words]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Shell:
    """A shell in an empty directory, without PYTHONPATH."""
    return Shell(tmp_path)


def test_the_sdist_has_the_checkout(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()} == {*FOLDERS, *FILES, "PKG-INFO"}
    for folder in FOLDERS:
        assert files_below(unpacked / folder) == files_below(TOP / folder)
    for file in FILES:
        assert (unpacked / file).read_bytes() == (TOP / file).read_bytes()


@pytest.mark.parametrize("script", [".ci/run", "tests/tools/setup"])
def test_its_scripts_can_be_run(unpacked: Path, script: str) -> None:
    assert os.access(unpacked / script, os.X_OK)


def test_the_sdist_of_an_unpacked_sdist_is_the_same(sdist: Path, unpacked: Path, tmp_path: Path) -> None:
    """To the byte, whenever and by whomever it is built, and whatever else lies there."""
    tree = tmp_path / "tree"
    shutil.copytree(unpacked, tree)
    for junk in JUNK:
        (tree / junk).parent.mkdir(parents=True, exist_ok=True)
        (tree / junk).write_text("junk")
    assert build("sdist", tree, tmp_path / "again").read_bytes() == sdist.read_bytes()


def test_the_wheel_of_the_checkout_is_that_of_the_sdist(wheel: Path, tmp_path: Path) -> None:
    """To the byte, so two builds give equal files too."""
    assert build("wheel", TOP, tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path, contents: dict[str, bytes]) -> None:
    assert wheel.name == f"{RELEASE}-py3-none-any.whl"
    package = {f"portproxy/{name}": data for name, data in files_below(TOP / "portproxy").items()}
    info = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    manual = f"{RELEASE}.data/data/share/man/man1/portproxy.1"
    assert "portproxy/py.typed" in package
    assert contents.keys() == {*package, *(f"{RELEASE}.dist-info/{name}" for name in info), manual}
    assert {name: contents[name] for name in package} == package
    assert contents[manual] == (TOP / "docs/portproxy.1").read_bytes()
    assert contents[f"{RELEASE}.dist-info/licenses/LICENSE"] == (TOP / "LICENSE").read_bytes()


def test_the_metadata_is_the_projects(metadata: Message, unpacked: Path, contents: dict[str, bytes]) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("portproxy", portproxy.__version__)
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    extras = [
        f"{needed}; extra == '{extra}'"
        for extra, needs in PROJECT["optional-dependencies"].items()
        for needed in needs
    ]
    assert sorted(metadata.get_all("Requires-Dist", [])) == sorted([*PROJECT["dependencies"], *extras])
    assert metadata.get_all("Provides-Extra") == [*PROJECT["optional-dependencies"]]
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("MIT", ["LICENSE"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (TOP / "README.md").read_text(encoding="utf-8")
    assert (unpacked / "PKG-INFO").read_bytes() == contents[f"{RELEASE}.dist-info/METADATA"]


def test_where_the_wheel_is_installed_it_is_what_runs(environment: Path, elsewhere: Shell) -> None:
    program = "import portproxy; print(portproxy.__file__)"
    code, output, errors = elsewhere.run([str(environment / "bin/python"), "-I", "-c", program])
    assert (code, errors) == (0, [])
    assert Path(output.rstrip("\n")).is_relative_to(environment)


def test_version_and_check(elsewhere: Shell, installed: list[str]) -> None:
    assert elsewhere.run([*installed, "--version"]) == (0, f"portproxy {portproxy.__version__}\n", [])
    file = str(TOP / "configs/portproxy.toml")
    code, output, errors = elsewhere.run([*installed, "check", "-c", file])
    assert (code, errors) == (0, [])
    assert output.startswith("rule ")


def test_serve(elsewhere: Shell, installed: list[str]) -> None:
    """One connection is relayed, and SIGTERM ends it."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        listen, connect = free_port(), upstream.getsockname()[1]
        rule = f"v6tov4 {listen} listenaddress=::1 connectaddress=127.0.0.1 connectport={connect}"
        with elsewhere.started(*installed, "serve", "--rule", rule) as process:
            assert process.stderr is not None
            assert any(" ready " in line for line in process.stderr)
            with socket.create_connection(("::1", listen)) as client, upstream.accept()[0] as service:
                client.sendall(b"ping")
                client.shutdown(socket.SHUT_WR)
                with service.makefile("rb") as received:
                    assert received.read() == b"ping"
                service.sendall(b"pong")
                service.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as received:
                    assert received.read() == b"pong"
            ended = stopped(process, signal.SIGTERM)
    assert ended.code == 0
    assert " stopped" in ended.errors
    assert f"upstream=127.0.0.1:{connect}" in ended.output


def as_installed() -> Path:
    """The file that each test and each child is to have for ``portproxy``.

    `make test` installs the wheel and sets PYTHONSAFEPATH; a developer's install is editable.
    """
    home = Path(sysconfig.get_path("purelib")) if sys.flags.safe_path else TOP
    return home / "portproxy" / "__init__.py"


def test_what_is_tested_is_what_is_installed() -> None:
    assert Path(portproxy.__file__).samefile(as_installed())


@pytest.mark.parametrize("start", [[PORTPROXY], [sys.executable, "-m", "portproxy"]], ids=["script", "-m"])
def test_what_tests_start_is_what_is_installed(tmp_path: Path, start: list[str]) -> None:
    # The first that it imports from elsewhere.
    (tmp_path / "click.py").write_text(TELL_WHERE)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = subprocess.check_output([*start, "check"], cwd=TOP, env=environ, text=True)
    assert Path(told.rstrip("\n")).samefile(as_installed())
