"""Errors for the operator, made from errors of the kernel."""

import errno

from collections.abc import Iterator
from contextlib import contextmanager

from netpolq.errors import NetpolqError, PrivilegeError
from netpolq.netlink.attributes import MalformedMessageError


class RulesetError(NetpolqError):
    """The kernel rejected a change of the ruleset. The rules that were in force stay in force."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn an `OSError` into a `PrivilegeError` or a `RulesetError`. Also a decorator."""
    try:
        yield
    except PermissionError as error:
        raise missing_privilege() from error
    except MalformedMessageError as error:
        raise RulesetError(f"cannot read the kernel's answer to a netfilter request: {error.strerror}") from error
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "no answer")
        raise RulesetError(f"the kernel refused a netfilter request: {reason}: {error.strerror or error}") from error


def missing_privilege() -> PrivilegeError:
    """The error for a process without CAP_NET_ADMIN."""
    return PrivilegeError("changing the ruleset needs CAP_NET_ADMIN in this network namespace: run as root or add the capability")
