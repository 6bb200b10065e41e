"""Build images with buildah, and run them with runc like a restricted Kubernetes pod.

The containers use the network of the host. The images stay in a cache folder, so that a second run
is fast.
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
MAX_CACHE_MB = 5_000
"""The size from which on all cached images are deleted before a build."""

BASE = "localhost/jobstatus-tests-base"
BUILDAH = ("buildah", "--root", str(CACHE / "images"), "--runroot", str(CACHE / "run"))
RUNC = ("runc", "--root", str(CACHE / "runc"))
PIP_NETWORK_SETTINGS = ("cert", "index-url", "proxy", "trusted-host")
"""The settings of this machine's pip that a build may need to reach the package index."""


def missing_requirements() -> list[str]:
    """Return the programs and rights that building images needs and that are missing."""
    tools = [tool for tool in ("buildah", "debootstrap", "runc") if shutil.which(tool) is None]
    return tools if os.geteuid() == 0 else [*tools, "the rights of root"]


def output_of(*command: str) -> str:
    """Run a command, return what it prints, and fail the test if its exit status is not 0."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def prepare() -> None:
    """Empty the cache if it has grown too large, and build the base image if it is missing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if int(output_of("du", "-sm", str(CACHE)).split()[0]) > MAX_CACHE_MB:
        output_of(*BUILDAH, "rmi", "--all", "--force")
    output_of(str(ROOT / "tests/deploy/base_image.sh"), BASE, *BUILDAH)


def build(name: str, file: Path, context: Path, *options: str) -> None:
    """Build an image, with the same options as `docker build`."""
    common = ("--quiet", "--layers", "--pull-never", "--isolation", "chroot")
    names = ("--tag", f"localhost/{name}", "--file", str(file))
    output_of(*BUILDAH, "build", *common, *_pip_mounts(), *options, *names, str(context))


def _pip_mounts() -> list[str]:
    """Return options that give pip in the build the network settings of this machine's pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pairs = (line.partition("=") for line in listed.splitlines())
    found = {name.rpartition(".")[2]: ast.literal_eval(value) for name, _, value in pairs}
    kept = {name: value for name, value in found.items() if name in PIP_NETWORK_SETTINGS}
    file = CACHE / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in kept.items()), ""]))
    mounts = [f"{file}:/etc/pip.conf:ro"]
    if "cert" in kept:
        mounts.append(f"{kept['cert']}:{kept['cert']}:ro")
    return [f"--volume={mount}" for mount in mounts]


def config(name: str) -> dict[str, Any]:
    """Return the configuration of an image, for example its user, command and labels."""
    image = json.loads(output_of(*BUILDAH, "inspect", "--type", "image", f"localhost/{name}"))
    found: dict[str, Any] = image["OCIv1"]["config"]
    return found


class Container:
    """A running container.

    Attributes:
        process: The process of runc, which forwards signals to the container, and exits with its
            exit status.
        root: The path of the container's root folder on the host.
    """

    def __init__(self, name: str, process: "subprocess.Popen[str]", root: Path) -> None:
        self.process = process
        self.root = root
        self._name = name

    @property
    def pid(self) -> int:
        """The id on the host of the container's process 1."""
        return int(json.loads(output_of(*RUNC, "state", self._name))["pid"])

    def call(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container, as the user of the container."""
        return subprocess.run(
            [*RUNC, "exec", self._name, *command], capture_output=True, text=True, check=False
        )


@contextlib.contextmanager
def running(image: str, folder: Path, *arguments: str, **environ: str) -> Iterator[Container]:
    """Run an image while the block runs.

    Args:
        image: The name of the image.
        folder: An empty folder for the files of runc.
        arguments: Replace the command (CMD) of the image if there are any.
        environ: Additional environment variables.
    """
    name = f"jobstatus-{uuid4()}"
    with _mounted(image) as root:
        output_of("runc", "spec", "--bundle", str(folder))
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
    container = output_of(*BUILDAH, "from", "--pull-never", f"localhost/{image}")
    try:
        yield Path(output_of(*BUILDAH, "mount", container))
    finally:
        output_of(*BUILDAH, "umount", container)
        output_of(*BUILDAH, "rm", container)


def _restricted(
    spec: dict[str, Any], image: dict[str, Any], arguments: tuple[str, ...], environ: dict[str, str]
) -> dict[str, Any]:
    """Return runc's specification with the user of the image, and without any capability."""
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
