"""The routes of many jobs: named ones, lists, counts, and one stream for all of them."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from litestar.types import ASGIApp

from jobstatus.status import NAME_LIMIT, JobState
from jobstatus_service.http.errors import (
    AnyRequest,
    InvalidRequestError,
    ValidationError,
)
from jobstatus_service.http.openapi_declarations import (
    COLLECTION_EVENTS_RESPONSES,
    COLLECTION_RESPONSES,
    COUNTS_RESPONSES,
    DEFAULT_LIMIT,
    BulkUntil,
    JobIds,
    JobKeys,
    Limit,
    ListCursor,
    Name,
    States,
    Wait,
    WithDetails,
)
from jobstatus_service.http.request_state import request_state
from jobstatus_service.http.routing import (
    api_get,
    client_of,
    header,
    key_of,
    named_jobs,
    requested_wait,
    statuses_of,
    tenant_of,
)
from jobstatus_service.http.streaming import (
    long_poll,
    respond,
    respond_no_content,
    stream,
    stream_list,
)
from jobstatus_service.lookup.cursor import Cursor, ListFilter
from jobstatus_service.lookup.list_feed import ListFeeds
from jobstatus_service.lookup.listing import Listing
from jobstatus_service.lookup.response import (
    StatusResponse,
    bulk_response,
    json_response,
    list_response,
)
from jobstatus_service.lookup.view import View
from jobstatus_service.metrics.metrics import Outcome

_LIST_PARAMETERS: Final = ("state", "name", "limit", "cursor")
"""The parameters of a list; the other ones are those of a request that names jobs."""


@api_get(
    "/api/jobs",
    operation_id="get_job_statuses",
    summary="Get Many Job Statuses, or a List",
    responses=COLLECTION_RESPONSES,
)
async def get_jobs(
    request: AnyRequest,
    ids: JobIds = None,
    keys: JobKeys = None,
    wait: Wait = 0.0,
    until: BulkUntil = "change",
    states: States = None,
    name: Name = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: ListCursor = None,
    details: WithDetails = False,
) -> ASGIApp:
    """Get the statuses of the jobs that are named, or list the tenant's jobs, newest first."""
    if ids is None and keys is None:
        wanted = _filter(request, states, name)
        _reject(request, ("wait", "until"), "a list does not wait; follow /api/jobs/events")
        _reject_unknown(request, (*_LIST_PARAMETERS, "details"))
        return await _list(request, wanted, limit, cursor)
    _reject(request, _LIST_PARAMETERS, "it selects a list, which has no `id` and no `key`")
    return await _respond_with_statuses(request, wait, until, _form(details=details))


async def _respond_with_statuses(
    request: AnyRequest, wait: float, until: str, form: View
) -> ASGIApp:
    keys = [key_of(request, uuid) for uuid in named_jobs(request)]
    if_none_match = header(request, "if-none-match")
    wait, extra_headers = requested_wait(request, wait)
    view = client_of(request).view | form
    current, outcome = await _current(request, keys)

    def bulk(responses: Iterable[StatusResponse]) -> StatusResponse:
        by_key = dict(zip(current, responses, strict=True))
        return bulk_response(by_key[key].in_view(view) for key in keys)

    before = bulk(current.values())

    def is_wanted(responses: Sequence[StatusResponse]) -> bool:
        finished = [response.is_final for response in responses]
        if until != "change":
            return any(finished) if until == "any-done" else all(finished)
        if all(finished):
            return True
        response = bulk(responses)
        if if_none_match is None:
            return response.etag != before.etag
        return not response.matches_etag(if_none_match)

    if not wait:
        return respond(before, outcome, if_none_match, *extra_headers)
    request_state(request.scope).has_waited = True
    responses = await long_poll(
        statuses_of(request), client_of(request), current, request.receive, wait, is_wanted
    )
    return respond(bulk(responses), "miss", if_none_match, *extra_headers)


async def _current(
    request: AnyRequest, keys: Sequence[str]
) -> tuple[dict[str, StatusResponse], Outcome]:
    """Return the current response about each job, by the key of its record."""
    unique = list(dict.fromkeys(keys))
    found = await asyncio.gather(*map(statuses_of(request).get, unique))
    outcome: Outcome = "miss" if any(each == "miss" for _, each in found) else "hit"
    return {key: response for key, (response, _) in zip(unique, found, strict=True)}, outcome


def _form(*, details: bool) -> View:
    return View.DETAILS if details else View.FULL


async def _list(request: AnyRequest, wanted: ListFilter, limit: int, cursor: str | None) -> ASGIApp:
    listing: Listing = request.app.state.listing
    begin = None
    if cursor is not None:
        try:
            begin = Cursor.parse(cursor, wanted)
        except ValueError as error:
            raise _invalid("cursor", str(error)) from None
    page = await listing.page(wanted, limit, begin)
    following = None if page.next is None else page.next.text(wanted)
    response = list_response(page.jobs, following)
    return respond(response, "miss", header(request, "if-none-match"))


@api_get(
    "/api/jobs/counts",
    operation_id="get_job_counts",
    summary="Count the Jobs by State",
    responses=COUNTS_RESPONSES,
)
async def get_job_counts(request: AnyRequest) -> ASGIApp:
    """Count the tenant's jobs by their stored state; the counts may be a second old."""
    tenant = tenant_of(request)
    _reject_unknown(request, ())
    listing: Listing = request.app.state.listing
    counts = await listing.counts(tenant)
    response = json_response(msgspec.json.encode(counts))
    return respond(response, "miss", header(request, "if-none-match"))


@api_get(
    "/api/jobs/events",
    operation_id="get_jobs_events",
    summary="Follow Many Jobs, or a List",
    responses=COLLECTION_EVENTS_RESPONSES,
)
async def get_jobs_events(
    request: AnyRequest,
    ids: JobIds = None,
    keys: JobKeys = None,
    states: States = None,
    name: Name = None,
    details: WithDetails = False,
) -> ASGIApp:
    """Stream the statuses of the jobs that are named, or the newest jobs of a list."""
    statuses, client = statuses_of(request), client_of(request)
    if ids is None and keys is None:
        wanted = _filter(request, states, name)
        _reject_unknown(request, ("state", "name", "details"))
        feeds: ListFeeds = request.app.state.list_feeds
        return stream_list(statuses, feeds, client, wanted)
    _reject(request, _LIST_PARAMETERS, "it selects a list, which has no `id` and no `key`")
    named = [key_of(request, uuid) for uuid in named_jobs(request)]
    current, _ = await _current(request, named)
    view = client.view | _form(details=details)
    if all(response.is_final for response in current.values()):
        seen = [response.in_view(view) for response in current.values()]
        last = bulk_response(seen) if len(seen) > 1 else seen[0]
        if last.matches_etag(header(request, "last-event-id")):
            return respond_no_content
    return stream(statuses, client, current, view)


def _filter(request: AnyRequest, states: list[str] | None, name: str | None) -> ListFilter:
    """Return the filter of a list.

    Raises:
        ForbiddenError: The client may see only the jobs that its token names.
        InvalidRequestError: A state does not exist, or the name is empty or too long.
    """
    tenant = tenant_of(request)
    wanted = set(states or ())
    known = [state.value for state in JobState]
    if wrong := sorted(wanted.difference(known)):
        raise _invalid(
            "state", f"There is no state {wrong[0]!r}; the states are {', '.join(known)}."
        )
    if name is not None and not 1 <= len(name) <= NAME_LIMIT:
        raise _invalid("name", f"A name has 1 to {NAME_LIMIT} characters.")
    return ListFilter(tenant, tuple(s for s in known if s in wanted), name)


def _reject(request: AnyRequest, parameters: Sequence[str], reason: str) -> None:
    """Reject a request that has parameters of another kind of request.

    Raises:
        InvalidRequestError: It has one.
    """
    for parameter in parameters:
        if parameter in request.query_params:
            raise _invalid(
                parameter, f"The parameter `{parameter}` does not belong here: {reason}."
            )


def _reject_unknown(request: AnyRequest, known: Sequence[str]) -> None:
    """Reject a request for a list with other parameters, so that a typo does not list all jobs.

    Raises:
        InvalidRequestError: It has one, or a parameter twice that may be given once.
    """
    for parameter in dict.fromkeys(request.query_params):
        if parameter not in known:
            names = ", ".join(known) or "none"
            raise _invalid(parameter, f"There is no such parameter here; there are: {names}.")
        if parameter != "state" and len(request.query_params.getall(parameter)) > 1:
            raise _invalid(parameter, "The parameter may be given once only.")


def _invalid(parameter: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(ValidationError(("query", parameter), message, "value_error"))
