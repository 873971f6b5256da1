"""Access to the page and its API: which requests are answered at all, and to which user.

`protect` adds everything to an application. The parts: `browser` (what other web sites may not do through a browser), `token` and
`kubernetes` (two ways to know a user), `failure_limit`, and `settings` (which combinations of flags are safe).
"""

from typing import TYPE_CHECKING

from netpolq.settings.ui_access_flags import Authentication
from netpolq.ui.access.middleware import HEALTH_PATH, USER, Authenticator, protect
from netpolq.ui.access.settings import Access, check
from netpolq.ui.access.token import Token

if TYPE_CHECKING:
    from netpolq.sources.kubernetes.connection import Connection

__all__ = ["HEALTH_PATH", "USER", "Access", "authenticator_of", "check", "protect"]


def authenticator_of(settings: Access, connection: "Connection | None") -> Authenticator | None:
    """What knows the users; None without authentication. `connection`: to the API server, for --authentication kubernetes.

    Raises `BootError` if the file of the token cannot be used.
    """
    match settings.authentication:
        case Authentication.NONE:
            return None
        case Authentication.TOKEN:
            if settings.token_file is None:
                raise ValueError("checked settings have the file of the token")
            return Token(settings.token_file)
        case Authentication.KUBERNETES:
            if connection is None:
                raise ValueError("users of Kubernetes need a connection to its API server")
            # Imported here: the kubernetes package takes a second and tens of megabytes.
            from netpolq.ui.access.kubernetes import Kubernetes  # noqa: PLC0415

            return Kubernetes(connection)
