"""Access to the page and its API: which requests are answered at all, and to which user.

`protect` adds everything to an application. The parts: `browser` (what other web sites may not do through a browser), `token` and
`kubernetes` (two ways to know a user), `failure_limit`, and `settings` (which combinations of flags are safe).
"""

from netpolq.ui.access.middleware import USER, protect
from netpolq.ui.access.settings import Access, check

__all__ = ["USER", "Access", "check", "protect"]
