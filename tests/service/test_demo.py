"""The demo, as a newcomer runs it."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.processes import free_port, running
from tests.waiting import eventually

from jobstatus_service.demo.checksum import line, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files, some of them with odd names."""
    root = tmp_path / "root"
    for name in ("a.bin", "sub/b", "sp ace", "new\nline", "back\\slash", "ümlaut", "empty"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if name == "empty" else name.encode() * 70_000)
    (root / os.fsdecode(b"\xff")).write_bytes(b"x")
    (root / "link").symlink_to("a.bin")
    return root


def check(manifest: Path) -> None:
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", str(manifest)], check=True)


def test_manifest_is_accepted(folder: Path, tmp_path: Path) -> None:
    """`sha256sum -c` accepts the manifest, odd names included."""
    manifest = tmp_path / "MANIFEST"
    assert write_manifest(folder, manifest) == 8
    check(manifest)
    assert line("0", Path("/a\nb")).startswith(b"\\0  /a\\n")


def test_once(folder: Path, tmp_path: Path) -> None:
    """`jobstatus demo --once` ends with 0 when the job has succeeded, and leaves its manifest."""
    temp = tmp_path / "temp"
    temp.mkdir()
    with running("jobstatus", "demo", str(folder), "--once", TMPDIR=str(temp)) as demo:
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
    assert re.search(
        r"ask: +curl -H 'Authorization: \S+' http://127\.0\.0\.1:\d+/api/jobs/", output
    )
    assert '"state":"succeeded"' in output
    manifest = re.search(r"^manifest: +(.+)$", output, re.MULTILINE)
    assert manifest is not None
    check(Path(manifest[1]))
    assert [p for p in temp.rglob("*") if p.is_file()] == [Path(manifest[1])]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends every process of the demo and removes every file."""
    temp = tmp_path / "temp"
    temp.mkdir()
    port = free_port()
    with running("jobstatus", "demo", str(folder), "--port", str(port), TMPDIR=str(temp)) as demo:
        assert demo.stdout is not None
        for text in demo.stdout:
            if "Ctrl-C" in text:
                break
        children = descendants(demo.pid)
        assert len(children) >= 3
        demo.send_signal(number)
        assert demo.wait(20) == 130
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert list(temp.iterdir()) == []


def descendants(pid: int) -> set[int]:
    """The pids of all processes below one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(c) for c in children} | {d for c in children for d in descendants(int(c))}


def test_no_folder(tmp_path: Path) -> None:
    """What is no folder is said in one line."""
    with running("jobstatus", "demo", str(tmp_path / "none"), "--once") as demo:
        output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert output == f"jobstatus: {tmp_path / 'none'} is no folder\n"
