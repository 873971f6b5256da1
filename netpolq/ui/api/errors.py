"""Answers about errors: a status and `{"error": "one sentence"}`."""

import logging

from collections.abc import Awaitable, Callable

import orjson

from aiohttp import web

from netpolq.errors import NetpolqError

log = logging.getLogger("ui")


class RequestError(Exception):
    """A request that cannot be answered. `status`: of HTTP. The text tells what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def error_answer(status: int, text: str) -> web.Response:
    """The answer about an error."""
    return web.Response(status=status, body=orjson.dumps({"error": text}), content_type="application/json")


@web.middleware
async def errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every error into an answer. What the program did not expect is logged, and its text is not told."""
    try:
        return await handler(request)
    except RequestError as error:
        return error_answer(error.status, str(error))
    except ValueError as error:
        return error_answer(400, str(error))
    except NetpolqError as error:
        return error_answer(400, str(error))
    except web.HTTPRequestEntityTooLarge:
        return error_answer(413, "the body is larger than 1 MiB; send fewer manifests at once")
    except web.HTTPMethodNotAllowed as error:
        answer = error_answer(405, f"{request.method} is not allowed here; allowed: {', '.join(sorted(error.allowed_methods))}")
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return answer
    except web.HTTPException as error:
        if error.status == 404:
            return error_answer(404, "there is nothing at this path; the page is at /")
        return error_answer(error.status, error.reason or "the request cannot be answered")
    except ConnectionResetError:  # the client is gone
        raise
    except Exception:  # one request must not end the others, and its traceback is for the log
        log.exception("the request for %s failed", request.path)
        return error_answer(500, "the request failed because of an error of netpolq; the log of netpolq ui has it")
