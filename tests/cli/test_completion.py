"""Completion: what is proposed, and what bash, zsh and fish make of it."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.cli.completion import SHELLS, Fish, words
from portproxy.cli.group import portproxy as group
from portproxy.model import RuleType
from portproxy.netsh.grammar import DELETE_ORDER, Verb
from portproxy.options import RULE_KEYS, RULE_OPTIONS
from tests.cli.shell import Shell, free_port
from tests.cli.terminal import CLEAR, Terminal, terminal

TYPES = [str(name) for name in RuleType]
TAGS = [f"{option.name}=" for option in RULE_KEYS + RULE_OPTIONS if option.name != "type"]
NAMES = ("my rule", "it's $5", 'a"b\\c', "100% *")
"""Of rules, and each of them means something to a shell."""


def proposed(line: str) -> list[str]:
    """What may stand at the end of ``line``, whatever the shell."""
    typed, _ = words(line)
    completion = Fish(group, {}, "portproxy", "_PORTPROXY_COMPLETE")
    return [str(item.value) for item in completion.get_completions(typed[1:-1], typed[-1])]


# What is proposed.

PROPOSED = {
    "portproxy ad": ["add"],
    "portproxy interface portproxy s": ["serve", "sessions", "set", "show", "status"],
    "portproxy in": ["interface"],
    "portproxy interface po": ["portproxy"],
    "portproxy interface portproxy po": [],
    "portproxy add ": TYPES,
    "portproxy add v4": ["v4tov4", "v4tov6"],
    "portproxy int p a v6tov4 nod": ["nodelay="],
    "portproxy in p sh ": ["all", *TYPES],
    "portproxy show all ": [],
    "portproxy reset ": [],
    "portproxy dump ": [],
    "portproxy set V6TOV4 ": TAGS,
    "portproxy add v6tov4 listenport=80 listen": ["listenaddress="],
    "portproxy add v6tov4 LISTENPORT=80 listen": ["listenaddress="],
    "portproxy add v6tov4 80 ::1 connect": ["connectport=", "connecttimeout=", "connectsource="],
    "portproxy add --no-save v6tov4 proto": ["protocol="],
    "portproxy delete v6tov4 ": [f"{tag}=" for tag in DELETE_ORDER],
    "portproxy delete v6tov4 80 ": ["listenaddress=", "protocol="],
    "portproxy add v6tov4 dataplane=": ["dataplane=auto", "dataplane=splice", "dataplane=copy"],
    "portproxy add v6tov4 nodelay=t": ["nodelay=true"],
    "portproxy add v6tov4 protocol=": ["protocol=tcp"],
    "portproxy add v6tov4 dataplane=copy dataplane=": [],
    "portproxy delete v6tov4 dataplane=": [],
    "portproxy add v6tov4 nosuchtag=": [],
    "portproxy add v6tov4 maxconn=": [],
    "portproxy dump --js": [],
    "portproxy status --js": ["--json"],
    "portproxy completion ": ["bash", "zsh", "fish"],
}
"""A line -> what is proposed at its end."""


@pytest.mark.parametrize("line", PROPOSED)
def test_what_is_proposed(line: str) -> None:
    assert proposed(line) == PROPOSED[line]


def test_every_command_is_proposed() -> None:
    assert set(proposed("portproxy ")) == group.commands.keys()
    assert {*Verb, "completion"} < group.commands.keys()


def test_every_option_is_proposed_but_the_given_ones() -> None:
    every = {"--config", "--control", "--dry-run", "--no-save", "--help"}
    assert set(proposed("portproxy add v6tov4 --")) == every
    assert set(proposed("portproxy add --dry-run v6tov4 --")) == every - {"--dry-run"}


@pytest.mark.parametrize(
    ("line", "typed", "quote"),
    [
        ("", [""], ""),
        ("a b", ["a", "b"], ""),
        ("a b ", ["a", "b", ""], ""),
        ("a 'b c", ["a", "b c"], "'"),
        ('a "b \\" ', ["a", 'b " '], '"'),
        ("a \"b'", ["a", "b'"], '"'),
        ("a 'b\"", ["a", 'b"'], "'"),
        ("a b\\ c\\", ["a", "b c"], ""),
        ("a name='x y'z", ["a", "name=x yz"], ""),
    ],
)
def test_an_unfinished_line(line: str, typed: list[str], quote: str) -> None:
    assert words(line) == (typed, quote)


@given(st.text(alphabet=st.sampled_from("ab \\'\"=\n#")))
def test_no_line_is_too_strange(line: str) -> None:
    typed, quote = words(line)
    assert shlex.split(f"{line}_{quote}")[:-1] == typed[:-1]


TOKENS = (
    *(
        "interface",
        "portproxy",
        "add",
        "se",
        "delete",
        "show",
        "import",
        "kill",
        "explain",
        "completion",
        "s",
    ),
    *("v6tov4", "80", "listenport=80", "=", "x=", "?", "--", "-", "-c", "--control=", "--json", "-h", "-hc"),
    *("--status", "--from", "--rule", "v6tov4 80", ""),
)


@given(st.lists(st.sampled_from(TOKENS), max_size=5), st.sampled_from(TOKENS))
def test_no_words_are_too_strange(before: list[str], begun: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTPROXY_CONTROL", "off")
        found = Fish(group, {}, "portproxy", "_PORTPROXY_COMPLETE").get_completions(before, begun)
    assert all(item.type in ("plain", "file") for item in found)


def test_asked_without_a_line(portproxy: Shell) -> None:
    for shell in SHELLS:
        code, output, errors = portproxy(environ={"_PORTPROXY_COMPLETE": f"{shell}_complete"})
        assert (code, errors) == (0, [])
        assert output.startswith("plain,add")


# What shells make of it.


@dataclass(frozen=True)
class Scene:
    """A relay, with a session, and the environment that a shell finds it in."""

    home: Path
    environ: dict[str, str]
    port: int
    """Of a rule without a name."""
    session: str

    def in_place(self, text: str) -> str:
        """``text`` with what is of this scene only."""
        return text.replace("PORT", str(self.port)).replace("SESSION", self.session)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    shell = Shell(tmp_path_factory.mktemp("completion"))
    (shell.directory / "file.toml").touch()
    port = free_port()
    rules = [f"v4tov4 {free_port()} connectport=9 name={shlex.quote(name)}" for name in NAMES]
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        rules.append(f"v6tov4 {port} connectport={upstream.getsockname()[1]} listenaddress=::1")
        arguments = [word for rule in rules for word in ("--rule", rule)]
        stack.enter_context(shell.serving(*arguments))
        stack.enter_context(socket.create_connection(("::1", port)))
        stack.enter_context(upstream.accept()[0])
        code, output, _ = shell("sessions")
        assert code == 0
        session = output.splitlines()[-1].split()[0]
        yield Scene(shell.directory, {**shell.environ, "HOME": str(shell.directory)}, port, session)


def test_what_the_relay_knows(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTPROXY_CONTROL", scene.environ["PORTPROXY_CONTROL"])
    names = [*NAMES, f"v6tov4/[::1]:{scene.port}"]
    assert proposed("portproxy explain ") == proposed("portproxy sessions ") == names
    assert proposed("portproxy sessions my") == ["my rule"]
    assert proposed("portproxy explain 'my rule' ") == []
    assert proposed("portproxy kill ") == [scene.session]
    assert proposed("portproxy explain --control /nowhere ") == []


def test_where_no_relay_answers(portproxy: Shell) -> None:
    """Nobody who pressed a key reads an error."""
    asks = {"COMP_LINE": "portproxy explain ", "_PORTPROXY_COMPLETE": "fish_complete"}
    assert portproxy(environ=asks) == (0, "\n", [])
    assert portproxy(environ={**asks, "COMP_LINE": "portproxy kill -c none.toml "}) == (0, "\n", [])


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one(portproxy: Shell, shell: str) -> None:
    code, script, errors = portproxy("completion", shell)
    assert (code, errors) == (0, [])
    checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


COMPLETED = {
    "true; A=1 portproxy int p ad": "true; A=1 portproxy int p add ",
    "portproxy add v6tov4 listenp": "portproxy add v6tov4 listenport=",
    "portproxy add v6tov4 80 conn": "portproxy add v6tov4 80 connect",
    "portproxy add v6tov4 listenaddress=fe80::1%eth0 proto": (
        "portproxy add v6tov4 listenaddress=fe80::1%eth0 protocol="
    ),
    "portproxy add v6tov4 nodelay=": "portproxy add v6tov4 nodelay=",
    "portproxy add v6tov4 nodelay=t": "portproxy add v6tov4 nodelay=true ",
    'portproxy add "v6tov4" "name=a b" "nodelay=t': 'portproxy add "v6tov4" "name=a b" "nodelay=true" ',
    "portproxy check --config=fil": "portproxy check --config=file.toml ",
    "portproxy check --control ~/fil": "portproxy check --control ~/file.toml ",
    "portproxy import fil": "portproxy import file.toml ",
    "portproxy explain my": "portproxy explain my\\ rule ",
    "portproxy explain my\\ r": "portproxy explain my\\ rule ",
    'portproxy explain "it': 'portproxy explain "it\'s \\$5" ',
    "portproxy explain 'my r": "portproxy explain 'my rule' ",
    "portproxy explain it": "portproxy explain it\\'s\\ \\$5 ",
    "portproxy explain a": 'portproxy explain a\\"b\\\\c ',
    "portproxy explain v6tov4/": "portproxy explain v6tov4/\\[::1\\]:PORT ",
    "portproxy explain v6tov4/[::1]:": "portproxy explain v6tov4/[::1]:PORT ",
    'portproxy explain "v6tov4/[:': 'portproxy explain "v6tov4/[::1]:PORT" ',
    "portproxy kill ": "portproxy kill SESSION ",
}
"""A line -> what it is after the tab key."""

BASH = r"""
PS1='ready> '
bind 'set bell-style none'
eval "$(portproxy completion bash)"
bind -x '"\C-g": printf "<<%s>>" "$READLINE_LINE"'
"""

ZSH = r"""
PS1='ready> '
setopt no_beep no_prompt_cr
autoload -Uz compinit && compinit -D -u
eval "$(portproxy completion zsh)"
show() { print -rn -- "<<$BUFFER>>" }
zle -N show
bindkey '^G' show
bindkey '^U' kill-whole-line
bindkey '^I' complete-word
"""


@pytest.fixture(scope="module")
def bash(scene: Scene) -> Iterator[Terminal]:
    rc = scene.home / "bashrc"
    rc.write_text(BASH)
    with terminal(["bash", "--noprofile", "--rcfile", str(rc), "-i"], scene.environ, scene.home) as started:
        yield started


@pytest.fixture(scope="module")
def zsh(scene: Scene) -> Iterator[Terminal]:
    (scene.home / ".zshrc").write_text(ZSH)
    with terminal(["zsh", "-d", "-i"], scene.environ, scene.home) as started:
        yield started


@pytest.mark.parametrize("line", COMPLETED)
def test_bash(scene: Scene, bash: Terminal, line: str) -> None:
    assert words(bash.completed(line)) == words(scene.in_place(COMPLETED[line]))


@pytest.mark.parametrize("line", COMPLETED)
def test_zsh(scene: Scene, zsh: Terminal, line: str) -> None:
    assert words(zsh.completed(line)) == words(scene.in_place(COMPLETED[line]))


def test_bash_offers_them_in_order(bash: Terminal) -> None:
    bash.type("portproxy add v6tov4 dataplane=\t\t")
    assert bash.read_until("copy").split()[-3:] == ["auto", "splice", "copy"]
    bash.type(CLEAR)


def test_zsh_says_what_they_mean(zsh: Terminal) -> None:
    zsh.type("portproxy explain --\t\t")
    zsh.read_until("--json     -- Print JSON, for programs.")
    zsh.type(CLEAR)


IN_FISH = {
    "true; and A=1 portproxy int p ad": ["add"],
    "portproxy add v6tov4 listenp": ["listenport="],
    "portproxy add v6tov4 listenaddress=fe80::1%eth0 proto": ["protocol="],
    "portproxy add v6tov4 nodelay=": ["nodelay=true", "nodelay=false"],
    'portproxy add "v6tov4" "name=a b" "nodelay=t': ["nodelay=true"],
    "portproxy check --config=fil": ["--config=file.toml"],
    "portproxy check --control ~/fil": ["~/file.toml"],
    "portproxy import fil": ["file.toml"],
    "portproxy explain my\\ r": ["my rule"],
    "portproxy explain 'my r": ["my rule"],
    "portproxy explain it": ["it's $5"],
    "portproxy explain a": ['a"b\\c'],
    "portproxy explain v6tov4/": ["v6tov4/[::1]:PORT"],
    "portproxy kill ": ["SESSION"],
    "portproxy show all ": [],
}
"""A line -> the words that fish would put at its end."""

FISH = """
portproxy completion fish | source
for line in $argv
    complete --escape --do-complete $line
    echo ---
end
"""


def test_fish(scene: Scene) -> None:
    blocks = offered_by_fish(scene, *IN_FISH).split("---\n")[:-1]
    offered = [[shlex.split(line.partition("\t")[0]) for line in block.splitlines()] for block in blocks]
    assert offered == [[[scene.in_place(word)] for word in offer] for offer in IN_FISH.values()]


def test_fish_says_what_they_mean(scene: Scene) -> None:
    assert offered_by_fish(scene, "portproxy explain --js").startswith("--json\tPrint JSON, for programs.\n")


def offered_by_fish(scene: Scene, *lines: str) -> str:
    done = subprocess.run(
        ["fish", "-c", FISH, *lines],
        cwd=scene.home,
        env=scene.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout
