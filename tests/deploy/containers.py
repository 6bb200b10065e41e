"""Images built by buildah, and containers that runc runs as a restricted pod is run.

The network is the host's. The images stay in a cache of their own, so that a second run is quick.
"""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.processes import ROOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobstatus-tests"
ROOM = 5_000
"""MB of old layers after which the cache begins anew."""

BASE = "localhost/jobstatus-tests-base"
BUILDAH = ("buildah", "--root", str(CACHE / "images"), "--runroot", str(CACHE / "run"))
RUNC = ("runc", "--root", str(CACHE / "runc"))
NETWORK = ("cert", "index-url", "proxy", "trusted-host")
"""pip's settings without which a build may not reach its index."""


def missing() -> list[str]:
    """What of all that is needed isn't here."""
    tools = [tool for tool in ("buildah", "debootstrap", "runc") if shutil.which(tool) is None]
    return tools if os.geteuid() == 0 else [*tools, "root's rights"]


def said(*command: str) -> str:
    """What a command prints; fails with its last words when it does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def prepare() -> None:
    """Have a base, and room."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if int(said("du", "-sm", str(CACHE)).split()[0]) > ROOM:
        said(*BUILDAH, "rmi", "--all", "--force")
    said(str(ROOT / "tests/deploy/base_image.sh"), BASE, *BUILDAH)


def build(name: str, file: Path, context: Path, *options: str) -> None:
    """Build an image, as `buildah build` or `docker build` does anywhere."""
    plain = ("--quiet", "--layers", "--pull-never", "--isolation", "chroot")
    where = ("--tag", f"localhost/{name}", "--file", str(file))
    said(*BUILDAH, "build", *plain, *_pip_settings(), *options, *where, str(context))


def _pip_settings() -> list[str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pairs = (line.partition("=") for line in listed.splitlines())
    found = {name.rpartition(".")[2]: ast.literal_eval(value) for name, _, value in pairs}
    kept = {name: value for name, value in found.items() if name in NETWORK}
    file = CACHE / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in kept.items()), ""]))
    mounts = [f"{file}:/etc/pip.conf:ro"]
    if "cert" in kept:
        mounts.append(f"{kept['cert']}:{kept['cert']}:ro")
    return [f"--volume={mount}" for mount in mounts]


def config(name: str) -> dict[str, Any]:
    """What an image says of how it is run."""
    found = json.loads(said(*BUILDAH, "inspect", "--type", "image", f"localhost/{name}"))
    told: dict[str, Any] = found["OCIv1"]["config"]
    return told


class Container:
    """A container that runs.

    Attributes:
        process: runc, which hands signals on and ends as the container does.
        root: Where the host sees its files.
    """

    def __init__(self, name: str, process: "subprocess.Popen[str]", root: Path) -> None:
        self.process = process
        self.root = root
        self._name = name

    @property
    def pid(self) -> int:
        """Of its process 1, as the host counts."""
        return int(json.loads(said(*RUNC, "state", self._name))["pid"])

    def call(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as who it runs as."""
        return subprocess.run(
            [*RUNC, "exec", self._name, *command], capture_output=True, text=True, check=False
        )


@contextlib.contextmanager
def running(image: str, folder: Path, *arguments: str, **environ: str) -> Iterator[Container]:
    """Run an image until the block ends; `arguments` in place of its own command."""
    name = f"jobstatus-{uuid4()}"
    with _mounted(image) as root:
        said("runc", "spec", "--bundle", str(folder))
        bundle = folder / "config.json"
        spec = _restricted(json.loads(bundle.read_text()), config(image), arguments, environ)
        spec["root"] = {"path": str(root), "readonly": True}
        bundle.write_text(json.dumps(spec))
        with (folder / "log").open("w+") as log:
            process = subprocess.Popen(
                [*RUNC, "run", "--bundle", str(folder), name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
            try:
                yield Container(name, process, root)
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                subprocess.run([*RUNC, "delete", "--force", name], check=False, capture_output=True)
                process.kill()
                process.wait()
                log.seek(0)
                print(log.read())


@contextlib.contextmanager
def _mounted(image: str) -> Iterator[Path]:
    made = said(*BUILDAH, "from", "--pull-never", f"localhost/{image}")
    try:
        yield Path(said(*BUILDAH, "mount", made))
    finally:
        said(*BUILDAH, "umount", made)
        said(*BUILDAH, "rm", made)


def _restricted(
    spec: dict[str, Any], image: dict[str, Any], arguments: tuple[str, ...], environ: dict[str, str]
) -> dict[str, Any]:
    uid, gid = map(int, image["User"].split(":"))
    spec["process"] |= {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": [*image["Entrypoint"], *(arguments or image.get("Cmd", []))],
        "env": [*image["Env"], *(f"{name}={value}" for name, value in environ.items())],
        "cwd": image.get("WorkingDir", "/"),
        "capabilities": {},
        "rlimits": [],
        "noNewPrivileges": True,
    }
    linux = spec["linux"]
    linux["namespaces"] = [part for part in linux["namespaces"] if part["type"] != "network"]
    options = ["nosuid", "nodev", "noexec", "mode=1777", "size=64m"]
    memory = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options}
    spec["mounts"].append(memory)
    return spec
