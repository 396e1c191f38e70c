"""What the Dockerfile says, before anything is built of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.package import context, dockerfile
from tests.package.base import ENVIRON
from tests.package.dockerfile import Instruction

TOP = Path(__file__).parents[2]
STAGES = dockerfile.read(TOP / "Dockerfile")
FINAL = STAGES[-1]
SETTINGS = dockerfile.settings(FINAL, ENVIRON)


def test_what_builds_is_not_what_runs() -> None:
    assert [stage.name for stage in STAGES] == ["build", ""]
    assert [copy.flags for copy in FINAL.of("COPY")] == [{"from": "build"}]


def test_bases_are_slim_and_of_one_version() -> None:
    """Two stages of different Pythons would give a venv whose interpreter is not there."""
    (base,) = {stage.base for stage in STAGES}
    image, tag = base.split(":")
    version, slim, _debian = tag.split("-")
    assert (image, slim) == ("python", "slim")
    assert tuple(map(int, version.split("."))) >= (3, 11)


def test_nothing_is_fetched_but_packages() -> None:
    names = {instruction.name for stage in STAGES for instruction in stage.instructions}
    assert "ADD" not in names
    fetching = [run.text for stage in STAGES for run in stage.of("RUN") if "://" in run.text]
    assert fetching == []


def test_the_user_is_a_number_and_not_root() -> None:
    """Kubernetes' runAsNonRoot believes numbers only."""
    (user,) = FINAL.of("USER")
    assert all(part.isdecimal() and int(part) > 0 for part in user.text.split(":"))
    assert FINAL.instructions.index(user) > max(map(FINAL.instructions.index, FINAL.of("RUN", "COPY")))


def test_no_shell_is_between_the_engine_and_the_relay() -> None:
    """A shell as PID 1 would keep SIGTERM to itself."""
    assert all(instruction.exec_form for instruction in FINAL.of("ENTRYPOINT", "CMD", "VOLUME"))
    assert [*SETTINGS.entrypoint, *SETTINGS.command] == ["portproxy", "serve"]
    assert SETTINGS.stop_signal == "SIGTERM"


def test_the_health_check_asks_portproxy() -> None:
    assert SETTINGS.health == ["portproxy", "health"]
    (health,) = FINAL.of("HEALTHCHECK")
    assert health.flags.keys() == {"interval", "timeout", "start-period"}


def test_the_control_socket_is_in_a_volume() -> None:
    assert [str(Path(SETTINGS.environ["PORTPROXY_CONTROL"]).parent)] == SETTINGS.volumes


def test_the_context_is_what_the_wheel_is_made_of() -> None:
    """Not tests, caches, or whatever else lies about in a checkout."""
    sent = set(context.files(TOP))
    modules = {path.relative_to(TOP) for path in (TOP / "portproxy").rglob("*") if path.is_file()}
    others = {"LICENSE", "README.md", "pyproject.toml", "docs/portproxy.1", "tests/constraints.txt"}
    assert sent == {path for path in modules if "__pycache__" not in path.parts} | set(map(Path, others))
    sources = [copy.text.split()[:-1] for copy in STAGES[0].of("COPY")]
    assert sources == [["."]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('RUN ["a", "b c"]', ["a", "b c"]),
        ("RUN a \\\n  # why\n  && b", ["/bin/sh", "-c", "a   && b"]),
    ],
)
def test_reading_commands(tmp_path: Path, line: str, words: list[str]) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM x:1\n{line}\n")
    (stage,) = dockerfile.read(tmp_path / "Dockerfile")
    assert [run.command for run in stage.instructions] == [words]


def test_reading_variables_and_flags(tmp_path: Path) -> None:
    text = 'ARG V=3\nFROM x:${V}-slim AS one\nCOPY --from=one --chown=1 a b\nENV A="b c" \\\n D=$A/$PATH\n'
    (tmp_path / "Dockerfile").write_text(text)
    (stage,) = dockerfile.read(tmp_path / "Dockerfile")
    assert (stage.base, stage.name) == ("x:3-slim", "one")
    assert stage.of("COPY") == [Instruction("COPY", {"from": "one", "chown": "1"}, "a b")]
    environ = dockerfile.settings(stage, {"A": "z", "PATH": "/bin"}).environ
    assert environ == {"A": "b c", "D": "z//bin", "PATH": "/bin"}


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        dockerfile.Settings({}).take(Instruction("ONBUILD", {}, "RUN x"))
