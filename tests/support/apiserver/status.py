"""Answers that are not objects: `Status` bodies, with the texts of the real server.

Source: k8s.io/apimachinery/pkg/api/errors and k8s.io/apiserver/pkg/storage/errors.go.
"""

from collections.abc import Sequence
from http import HTTPStatus

import orjson

from tests.support.apiserver.resources import Body, Resource, Verb

_CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue "
    "parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token "
    "results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and "
    "now may show up in the list."
)


class ApiError(Exception):
    """A refusal. `retry_after_s` becomes the header of that name."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Body | None = None,
        continue_token: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        metadata = {"continue": continue_token} if continue_token else {}
        body: dict[str, object] = {"kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure"}
        body |= {"message": message, "reason": reason}
        if details:
            body["details"] = details
        self.body = orjson.dumps(body | {"code": code})


def too_old(version: int, oldest: int) -> ApiError:
    """The error for a watch from a version whose later changes are compacted."""
    return ApiError(HTTPStatus.GONE, "Expired", f"too old resource version: {version} ({oldest})")


def list_too_old() -> ApiError:
    """The error for a list of a version that is compacted."""
    return ApiError(HTTPStatus.GONE, "Expired", "The resourceVersion for the provided list is too old.")


def continue_expired(token: str) -> ApiError:
    """The error for a page of a list whose version is compacted. `token`: continues with the present state instead."""
    return ApiError(HTTPStatus.GONE, "Expired", _CONTINUE_EXPIRED, continue_token=token)


def too_large(version: int, current: int) -> ApiError:
    """The error for a version that does not exist yet."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(
        HTTPStatus.GATEWAY_TIMEOUT,
        "Timeout",
        f"Too large resource version: {version}, current: {current}",
        details={"causes": [cause], "retryAfterSeconds": 1},
        retry_after_s=1,
    )


def invalid_options(causes: Sequence[tuple[str, str]]) -> ApiError:
    """The error for parameters that are not allowed here: pairs of a parameter and the reason."""
    reasons = ", ".join(f"{field}: Forbidden: {why}" for field, why in causes)
    details = {
        "group": "meta.k8s.io",
        "kind": "ListOptions",
        "causes": [{"reason": "FieldValueForbidden", "message": f"Forbidden: {why}", "field": field} for field, why in causes],
    }
    message = f'ListOptions.meta.k8s.io "" is invalid: {reasons}'
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message, details=details)


def bad_request(message: str) -> ApiError:
    """The error for a parameter that cannot be parsed."""
    return ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def unauthorized() -> ApiError:
    """The error for missing or wrong credentials."""
    return ApiError(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: Verb, resource: Resource) -> ApiError:
    """The error for valid credentials without the permission."""
    what = f'cannot {verb} resource "{resource.plural}" in API group "{resource.group}" at the cluster scope'
    return ApiError(
        HTTPStatus.FORBIDDEN,
        "Forbidden",
        f'{resource.plural} is forbidden: User "{user}" {what}',
        details={"group": resource.group, "kind": resource.plural},
    )


def not_found() -> ApiError:
    """The error for an unknown path."""
    return ApiError(HTTPStatus.NOT_FOUND, "NotFound", "the server could not find the requested resource")
