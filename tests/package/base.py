"""The base image's stand-in: this machine's system, read-only, and a Python of its own in /usr/local.

Like Docker's Python images it has its library uncompiled, libpython in ld.so.cache, and pip. (A file with
capabilities finds libpython there alone: ld.so(8) does not believe an rpath of $ORIGIN in secure execution.)
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from tests.package.namespaces import command

ENVIRON = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""What the base image sets."""
_EMPTY = ("dev", "etc", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var/tmp")
_NOT_COPIED = (
    *("__pycache__", "test", "tests", "idlelib", "site-packages", "dist-packages", "config-*"),
    # The relay has no use for these, and copying and compiling takes time.
    *("ensurepip", "lib2to3", "pydoc_data", "tkinter", "turtledemo"),
    # Debian's own, which say that pip is not to touch its Python.
    *("EXTERNALLY-MANAGED", "sitecustomize.py"),
)
_PIP = "#!/usr/local/bin/python3\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"


class Root:
    """A root file system: ``directory`` keeps what it has of its own, the rest is mounted."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "root"
        self._directory = directory
        self._local = directory / "local"

    def make(self) -> None:
        """Make a base image."""
        for name in _EMPTY:
            (self.path / name).mkdir(parents=True)
        for name in ("tmp", "var/tmp"):
            (self.path / name).chmod(0o1777)
        (self.path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (self.path / "etc/group").write_text("root:x:0:\n")
        (self.path / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        shutil.copy("/etc/ld.so.conf", self.path / "etc")
        shutil.copytree("/etc/ld.so.conf.d", self.path / "etc/ld.so.conf.d")
        for path in _system():
            if path.is_symlink():
                (self.path / path.name).symlink_to(path.readlink())
            else:
                (self.path / path.name).mkdir(exist_ok=True)
        self._install_python()
        self.mount()
        command("chroot", self.path, "ldconfig")
        self._install_pip()
        command("umount", "--recursive", self.path)

    def begin(self, stage: Path) -> Root:
        """A new stage in the folder ``stage``, mounted. Files are the same until they are replaced."""
        command("cp", "-al", self._directory, stage)
        root = Root(stage)
        root.mount()
        return root

    def mount(self) -> None:
        """Mount what is not its own; the mounts go with the namespace."""
        command("mount", "--bind", self.path, self.path)
        # Where tests keep their files may be mounted nosuid, which takes capabilities away too.
        command("mount", "-o", "remount,bind,suid", self.path)
        for path in _system():
            if not path.is_symlink():
                command("mount", "--rbind", path, self.path / path.name)
                command("mount", "-o", "remount,bind,ro", self.path / path.name)
        command("mount", "--bind", self._local, self.path / "usr/local")
        command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.path / "dev")
        for name in ("null", "zero", "full", "random", "urandom"):
            (self.path / "dev" / name).touch()
            command("mount", "--bind", f"/dev/{name}", self.path / "dev" / name)
        command("mount", "--rbind", "/proc", self.path / "proc")

    def seal(self) -> None:
        """Make it read-only, as ``--read-only`` does."""
        for path in (self.path / "usr/local", self.path / "dev", self.path):
            command("mount", "-o", "remount,bind,ro", path)

    def _install_python(self) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        binaries, libraries = self._local / "bin", self._local / "lib"
        binaries.mkdir(parents=True)
        shutil.copy(os.path.realpath(sys.executable), binaries / library.name)
        for link in ("python3", "python"):
            (binaries / link).symlink_to(library.name)
        ignored = shutil.ignore_patterns(*_NOT_COPIED)
        shutil.copytree(library, libraries / library.name, symlinks=True, ignore=ignored)
        shared = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
        if shared.is_file():
            shutil.copy(shared, libraries)

    def _install_pip(self) -> None:
        """Copy the pip that runs the tests to where this Python looks for it, compiled as it is."""
        places = "import site; print(site.getsitepackages()[0])"
        packages = command("chroot", self.path, "/usr/local/bin/python3", "-c", places).strip()
        for file in importlib.metadata.distribution("pip").files or ():
            if ".." not in file.parts:
                target = self.path / packages.lstrip("/") / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), target)
        script = self._local / "bin/pip"
        script.write_text(_PIP)
        script.chmod(0o755)


def _system() -> list[Path]:
    """What a base image has of the system: folders, or links into /usr."""
    return [Path("/usr"), Path("/bin"), Path("/sbin"), *Path("/").glob("lib*")]
