"""What a schema can't say of a request that is to be accepted: how two fields lie to each other, what time it is, and what
there is on this server. Requests that are meant to be refused are left as they were drawn."""

import datetime
import json
import os

import schemathesis

# Ids of what is there, by the beginning of the path: {"/v1/hosts/": "host-...", ...}.
KNOWN = json.loads(os.environ.get("ATOLL_FUZZ_KNOWN", "{}"))
YEAR = datetime.timedelta(days=366)


def moment(text):
    """The moment that is meant, or nothing; a day means its beginning."""
    try:
        at = datetime.datetime.fromisoformat(str(text).upper().replace("Z", "+00:00"))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=datetime.timezone.utc)


def shown(at, like):
    """As the text that it takes the place of: a day, or a moment."""
    form = "%Y-%m-%d" if len(str(like)) == 10 else "%Y-%m-%dT%H:%M:%SZ"
    return at.astimezone(datetime.timezone.utc).strftime(form)


def days(query):
    """`from` lies before `to`, by a year at most; neither is far away from now."""
    now = datetime.datetime.now(datetime.timezone.utc)
    start, end = moment(query.get("from")), moment(query.get("to"))
    if "to" in query and end is not None and end > now:
        query["to"] = shown(now, query["to"])
        end = now
    if "from" in query and start is not None and (end or now).year > 2:
        last = end or now
        if not last - YEAR < start < last:
            query["from"] = shown(last - datetime.timedelta(days=7), query["from"])


@schemathesis.hook
def before_call(context, case, **kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    label = f"{case.method.upper()} {case.path}"
    if label == "POST /v1/api-keys" and isinstance(case.body, dict):
        at = moment(case.body.get("expires_at"))
        if at is not None and at <= datetime.datetime.now(datetime.timezone.utc):
            case.body["expires_at"] = "2999-01-01T00:00:00Z"
    if label in ("GET /v1/usage", "GET /v1/admin/teams/{id}/usage"):
        days(case.query)
    # Half of the requests are about something that is there. Nothing of it is deleted.
    if case.method.upper() != "DELETE" and "id" in case.path_parameters and int(case.id[-1], 36) % 2:
        for start, known in KNOWN.items():
            if case.path.startswith(start + "{id}"):
                case.path_parameters["id"] = known
