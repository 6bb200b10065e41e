"""The same API with FastAPI, redis-py and pydantic, as one would write it first."""

import os
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from redis.asyncio import Redis

State = Literal["pending", "in_progress", "retrying", "succeeded", "aborted", "failed", "unknown"]


class JobStatus(BaseModel):
    """The status of a job."""

    id: UUID
    created_at: datetime
    updated_at: datetime
    name: str = Field(default="", max_length=120)
    reason: str = ""
    has_progress: bool = False
    progress: float = Field(default=0.0, ge=0, le=100)
    state: State = "pending"


app = FastAPI()
redis: Any = Redis.from_url(os.environ["JOBSTATUS_REDIS_URL"], decode_responses=True)


def _authorized(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> None:
    if credentials.credentials != "secret":
        raise HTTPException(401)


@app.get("/api/jobs/{job_id}", dependencies=[Depends(_authorized)])
async def get_job_status(job_id: UUID) -> JobStatus:
    """Return the status of the job."""
    fields = await redis.hgetall(f"job:{job_id}")
    if not fields:
        return JobStatus(
            id=job_id, created_at=_time(0), updated_at=_time(0), reason="no record", state="unknown"
        )
    return JobStatus(
        id=job_id,
        created_at=_time(fields["created"]),
        updated_at=_time(fields["updated"]),
        name=fields["name"],
        reason=fields.get("reason", ""),
        has_progress="progress" in fields,
        progress=float(fields.get("progress", 0)),
        state=fields["state"],
    )


def _time(ms: float | str) -> datetime:
    return datetime.fromtimestamp(int(ms) / 1000, UTC)
