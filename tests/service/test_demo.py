"""`jobstatus demo` runs a real job, and cleans up after itself."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from tests.processes import free_port, running, start, start_ignoring_sigint, stopping
from tests.waiting import eventually

from jobstatus_service.demo.checksum import manifest_line, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files, some of whose names hold special characters."""
    root = tmp_path / "root"
    for name in ("a.bin", "sub/b", "sp ace", "new\nline", "back\\slash", "ümlaut", "empty"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if name == "empty" else name.encode() * 70_000)
    (root / os.fsdecode(b"\xff")).write_bytes(b"x")
    (root / "link").symlink_to("a.bin")
    return root


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """An empty folder for the demo's temporary files."""
    path = tmp_path / "temporary"
    path.mkdir()
    return path


def check(manifest: Path) -> None:
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", str(manifest)], check=True)


def test_manifest_is_accepted_by_sha256sum(folder: Path, tmp_path: Path) -> None:
    """`sha256sum -c` accepts the manifest, special characters included."""
    manifest = tmp_path / "MANIFEST"
    assert write_manifest(folder, manifest) == 8
    check(manifest)
    assert manifest_line("0", Path("/a\nb")).startswith(b"\\0  /a\\n")


def test_once(folder: Path, temporary: Path) -> None:
    """`jobstatus demo --once` exits with 0 when the job has succeeded, and keeps its manifest."""
    with running("jobstatus", "demo", str(folder), "--once", TMPDIR=str(temporary)) as demo:
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
    assert re.search(r"curl -H 'Authorization: \S+' http://127\.0\.0\.1:\d+/api/jobs/", output)
    assert '"state":"succeeded"' in output
    manifest = re.search(r"sha256sum -c --quiet (.+)$", output, re.MULTILINE)
    assert manifest is not None
    check(Path(manifest[1]))
    assert [p for p in temporary.rglob("*") if p.is_file()] == [Path(manifest[1])]


@pytest.mark.parametrize(
    ("stop", "ignores_sigint"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)],
)
def test_interrupt_leaves_nothing(
    folder: Path, temporary: Path, stop: signal.Signals, ignores_sigint: bool
) -> None:
    """Ctrl-C stops every process of the demo and removes every file, even if SIGINT was ignored."""
    command = ("jobstatus", "demo", str(folder), "--port", str(free_port()))
    begin = start_ignoring_sigint if ignores_sigint else start
    with stopping(begin(*command, TMPDIR=str(temporary))) as demo:
        assert demo.stdout is not None
        assert any("Ctrl-C" in text for text in demo.stdout)
        children = descendants(demo.pid)
        assert len(children) >= 3
        demo.send_signal(stop)
        demo.send_signal(stop)  # an impatient second Ctrl-C changes nothing
        assert demo.wait(20) == 130
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert list(temporary.iterdir()) == []


def test_valkey_survives_an_interrupt_of_the_group(folder: Path, temporary: Path) -> None:
    """Ctrl-C in a terminal, which the whole process group receives, does not stop Valkey first."""
    with running("jobstatus", "demo", str(folder), TMPDIR=str(temporary)) as demo:
        assert demo.stdout is not None
        assert any("Ctrl-C" in text for text in demo.stdout)
        group = [pid for pid in descendants(demo.pid) if os.getpgid(pid) == os.getpgid(demo.pid)]
        assert group
        for pid in group:
            os.kill(pid, signal.SIGINT)
            assert is_blocked(pid, signal.SIGINT)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130
    assert list(temporary.iterdir()) == []


def is_blocked(pid: int, number: signal.Signals) -> bool:
    """Return whether a process blocks a signal."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(mask, 16) & 1 << (number - 1))


def descendants(pid: int) -> set[int]:
    """Return the pids of a process's children, their children, and so on."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(c) for c in children} | {d for c in children for d in descendants(int(c))}


def test_port_in_use(tmp_path: Path) -> None:
    """A port that another program uses is an error of one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with running("jobstatus", "demo", str(tmp_path), "--once", "--port", port) as demo:
            output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert output == f"jobstatus: port {port} can't be used: Address already in use\n"


def test_path_that_is_not_a_folder(tmp_path: Path) -> None:
    """A path that is not a folder is an error of one line."""
    with running("jobstatus", "demo", str(tmp_path / "none"), "--once") as demo:
        output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert output == f"jobstatus: {tmp_path / 'none'} is not a folder\n"
