"""Coverage-guided fuzzing of every target: ``python -m tests.fuzz.run_atheris RUNS [TARGET ...]``.

An input that breaks a target is printed, to be made a test of.
"""

from __future__ import annotations

import importlib.util
import io
import platform
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

_OPTIONS = ("-max_len=4096", "-timeout=60", "-verbosity=0")
"""Of libFuzzer (https://llvm.org/docs/LibFuzzer.html): inputs have limits in bytes and in seconds."""


def run_all(runs: str, names: list[str]) -> int:
    """Fuzz each target in a process of its own; the exit code."""
    if importlib.util.find_spec("atheris") is None:
        print(f"fuzz: no atheris for Python {platform.python_version()}: only pytest's targets were run")
        return 0
    from tests.fuzz.atheris_targets import TARGETS

    failed = []
    for name in names or TARGETS:
        print(f"fuzz: {name}, {runs} runs", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            corpus = Path(directory, "corpus")
            corpus.mkdir()
            for number, seed in enumerate(TARGETS[name].seeds):
                (corpus / str(number)).write_bytes(seed)
            words = [sys.executable, "-m", "tests.fuzz.run_atheris", "--child", name]
            options = [f"-runs={runs}", *_OPTIONS, f"-artifact_prefix={directory}/", str(corpus)]
            done = subprocess.run(
                [*words, *options], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if done.returncode:
                sys.stdout.buffer.write(done.stdout)
                failed.append(name)
    print(f"fuzz: {' '.join(failed)} failed" if failed else "fuzz: no target failed")
    return 1 if failed else 0


def run_one(name: str, options: list[str]) -> None:
    """Fuzz one target in this process, which that ends; ``options`` are libFuzzer's."""
    import atheris

    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["portproxy"]):
        from tests.fuzz.atheris_targets import TARGETS

    def check(data: bytes) -> None:
        try:
            TARGETS[name].check(data)
        except BaseException:
            print(f"fuzz: {name} fails for {data!r}", flush=True)
            raise

    atheris.Setup([name, *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        run_one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(run_all(sys.argv[1], sys.argv[2:]))
