"""The same API with Litestar and redis-py, and with one HGETALL per request.

It has no batched reads, no cache, no conditional requests and no long polls.
"""

import os
from typing import Annotated, Any
from uuid import UUID

from litestar import Litestar, Request, get
from litestar.exceptions import NotAuthorizedException
from litestar.params import Parameter
from redis.asyncio import Redis

from jobstatus.status import JobStatus, Record, to_datetime


@get("/api/jobs/{job_id:str}")
async def get_job_status(
    job_id: Annotated[str, Parameter()], request: Request[Any, Any, Any]
) -> JobStatus:
    """Return the status of the job."""
    if request.headers.get("authorization") != "Bearer secret":
        raise NotAuthorizedException
    uuid = UUID(job_id)
    record = Record.from_fields(await request.app.state.redis.hgetall(f"job:{uuid}"))
    return JobStatus(
        id=uuid,
        created_at=to_datetime(record.created),
        updated_at=to_datetime(record.updated),
        name=record.name,
        reason=record.reason,
        has_progress=record.progress is not None,
        progress=record.progress or 0.0,
        state=record.state,
    )


app = Litestar([get_job_status], openapi_config=None)
app.state.redis = Redis.from_url(os.environ["JOBSTATUS_REDIS_URL"], decode_responses=True)
