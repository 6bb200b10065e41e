"""The routes of one job: its status, details, events and result."""

from collections.abc import Sequence

from litestar.types import ASGIApp

from jobstatus.keys import result_key
from jobstatus.status import JobState
from jobstatus.storage.resp import packed_command
from jobstatus_service.http.errors import AnyRequest, ForbiddenError, NoResultError
from jobstatus_service.http.openapi_declarations import (
    DETAILS_RESPONSES,
    EVENTS_RESPONSES,
    RESULT_RESPONSES,
    STATUS_RESPONSES,
    JobId,
    Until,
    Wait,
)
from jobstatus_service.http.request_state import request_state
from jobstatus_service.http.routing import (
    api_get,
    client_of,
    header,
    key_of,
    parsed_job_id,
    requested_wait,
    statuses_of,
)
from jobstatus_service.http.streaming import long_poll, respond, respond_no_content, stream
from jobstatus_service.lookup.response import StatusResponse, json_response
from jobstatus_service.lookup.view import View


@api_get(
    "/api/jobs/{job_id:str}",
    operation_id="get_job_status_jobs__job_id__get",
    summary="Get Job Status",
    responses=STATUS_RESPONSES,
)
async def get_job_status(
    job_id: JobId, request: AnyRequest, wait: Wait = 0.0, until: Until = "change"
) -> ASGIApp:
    """Get the status of a job: at once, or after a wait for its next change."""
    return await _respond_with_status(job_id, request, wait, until)


@api_get(
    "/api/jobs/{job_id:str}/details",
    operation_id="get_job_details",
    summary="Get Job Details",
    responses=DETAILS_RESPONSES,
)
async def get_job_details(
    job_id: JobId, request: AnyRequest, wait: Wait = 0.0, until: Until = "change"
) -> ASGIApp:
    """Get the status of a job with its times, attempt, worker and estimated end."""
    return await _respond_with_status(job_id, request, wait, until, View.DETAILS)


async def _respond_with_status(
    job_id: str, request: AnyRequest, wait: float, until: str, form: View = View.FULL
) -> ASGIApp:
    key = key_of(request, parsed_job_id(job_id))
    view = client_of(request).view | form
    if_none_match = header(request, "if-none-match")
    wait, extra_headers = requested_wait(request, wait)
    state, statuses = request_state(request.scope), statuses_of(request)
    if state.read_error is not None:
        raise state.read_error
    current, outcome = await statuses.get(key)

    def is_wanted(responses: Sequence[StatusResponse]) -> bool:
        (response,) = responses
        if response.is_final or until == "done":
            return response.is_final
        if if_none_match is None:
            return response.etag != current.etag
        return not response.in_view(view).matches_etag(if_none_match)

    if wait:
        state.has_waited = True
        outcome = "miss"
        (current,) = await long_poll(
            statuses, client_of(request), {key: current}, request.receive, wait, is_wanted
        )
    return respond(current.in_view(view), outcome, if_none_match, *extra_headers)


@api_get(
    "/api/jobs/{job_id:str}/events",
    operation_id="get_job_events",
    summary="Follow a Job",
    responses=EVENTS_RESPONSES,
)
async def get_job_events(job_id: JobId, request: AnyRequest) -> ASGIApp:
    """Stream the status of a job and each change of it, until the job is in a final state."""
    key = key_of(request, parsed_job_id(job_id))
    statuses, client = statuses_of(request), client_of(request)
    current, _ = await statuses.get(key)
    last_event_id = header(request, "last-event-id")
    if current.is_final and current.in_view(client.view).matches_etag(last_event_id):
        return respond_no_content
    return stream(statuses, client, {key: current}, client.view)


@api_get(
    "/api/jobs/{job_id:str}/result",
    operation_id="get_job_result",
    summary="Get Job Result",
    responses=RESULT_RESPONSES,
)
async def get_job_result(job_id: JobId, request: AnyRequest) -> ASGIApp:
    """Get what a finished job has made, as the JSON that its worker has stored."""
    key = key_of(request, parsed_job_id(job_id))
    statuses, client = statuses_of(request), client_of(request)
    if not client.reads_results:
        raise ForbiddenError("The job token does not include the right to read results.")
    current, outcome = await statuses.get(key)
    etag = current.etag
    current = current.in_view(client.view)
    if not current.is_final:
        is_unknown = current.state is JobState.UNKNOWN
        what = (
            "There is no result: the state of the job is unknown."
            if is_unknown
            else (f"There is no result yet: the job is {current.state}.")
        )
        raise NoResultError(404, what)
    if not current.details.result:
        raise NoResultError(404, "The job has finished without a result.")
    if not current.details.has_result:
        # Why it was dropped may be the message of an exception.
        is_shown = not client.view & View.WITHOUT_ERRORS
        why = f": {current.details.result}" if is_shown else ""
        raise NoResultError(410, f"The result was dropped{why}.")
    (body,) = await statuses.reader.execute(key, [packed_command("GET", result_key(key))])
    # Another run may have stored a traceback since, which is not for job tokens.
    now: StatusResponse = await statuses.reader.read(key)
    if body is None or now.etag != etag:
        raise NoResultError(404, "The result is no longer stored.")
    return respond(json_response(body), outcome, header(request, "if-none-match"))
