"""The demo's job: a SHA-256 manifest of a folder, with byte-accurate progress.

A template to copy: an arq application that knows of jobstatus in one line, `current_job()`.
"""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

from arq.connections import RedisSettings

from jobstatus import current_job

CHUNK = 1 << 20


async def checksum(_: dict[str, Any], root: str, manifest: str) -> int:
    """Write `HASH  PATH` for every file under `root`, as `sha256sum -c` reads it."""
    return await asyncio.to_thread(write_manifest, Path(root), Path(manifest))


def write_manifest(root: Path, manifest: Path) -> int:
    """Hash file after file; returns how many."""
    report = current_job()
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    total = sum(path.stat().st_size for path in files) or 1
    read = 0
    report.sample(lambda: read / total)
    with manifest.open("wb") as out:
        for path in files:
            report.reason = str(path.relative_to(root))
            sha256 = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    sha256.update(chunk)
                    read += len(chunk)
            out.write(line(sha256.hexdigest(), path.absolute()))
    return len(files)


def line(digest: str, path: Path) -> bytes:
    """One line of the manifest; odd names are escaped as coreutils does."""
    name = os.fsencode(path)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + digest.encode() + b"  " + escaped + b"\n"


class WorkerSettings:
    """`jobstatus-worker jobstatus_service.demo.checksum.WorkerSettings`."""

    functions: ClassVar = [checksum]
    redis_settings = RedisSettings.from_dsn(os.environ.get("DEMO_REDIS_URL", "redis://"))
    job_timeout = 3600
