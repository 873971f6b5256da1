"""The answer to a request that is refused."""

from http import HTTPStatus

from aiohttp import web


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request is not answered. The text is one sentence that says what to do. `retry_after_s`: when to try again, or None."""

    def __init__(self, status: HTTPStatus, text: str, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s

    def again(self) -> "Refusal":
        """The same refusal as another exception: one that is raised again and again would collect tracebacks."""
        return Refusal(self.status, str(self), self.retry_after_s)

    def response(self) -> web.Response:
        """The answer as JSON."""
        headers: dict[str, str] = {}
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="netpolq"'
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return web.json_response({"error": str(self)}, status=self.status, headers=headers)


def unauthorized(text: str) -> Refusal:
    """The refusal of a request without a valid token."""
    return Refusal(HTTPStatus.UNAUTHORIZED, text)
