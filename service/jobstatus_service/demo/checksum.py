"""The demo's job: write a SHA-256 manifest of a folder, with progress that counts every byte.

A template to copy: an arq application that uses jobstatus in one line, `current_job()`.
"""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

from arq.connections import RedisSettings

from jobstatus import current_job

CHUNK_BYTES = 1 << 20


async def checksum(_: dict[str, Any], root: str, manifest: str) -> int:
    """Write a line for every file under `root`, in the format that `sha256sum -c` reads."""
    return await asyncio.to_thread(write_manifest, Path(root), Path(manifest))


def write_manifest(root: Path, manifest: Path) -> int:
    """Hash one file after the other; return how many there were."""
    report = current_job()
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    total_bytes = sum(path.stat().st_size for path in files) or 1
    hashed_bytes = 0
    report.sample(lambda: 100 * hashed_bytes / total_bytes)
    with manifest.open("wb") as out:
        for path in files:
            report.reason = str(path.relative_to(root))
            sha256 = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    sha256.update(chunk)
                    hashed_bytes += len(chunk)
            out.write(manifest_line(sha256.hexdigest(), path.absolute()))
    return len(files)


def manifest_line(digest: str, path: Path) -> bytes:
    """Return one line of the manifest; special characters are escaped as coreutils does it."""
    name = os.fsencode(path)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + digest.encode() + b"  " + escaped + b"\n"


class WorkerSettings:
    """Run it with `jobstatus-worker jobstatus_service.demo.checksum.WorkerSettings`."""

    functions: ClassVar = [checksum]
    redis_settings = RedisSettings.from_dsn(os.environ.get("DEMO_REDIS_URL", "redis://"))
    job_timeout = 3600
