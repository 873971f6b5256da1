"""The command line and the environment of the pool, which is the parent process of all workers."""

import sys

from collections.abc import Mapping

from netpolq.ipc import settings_document
from netpolq.settings import Settings
from netpolq.settings.options import ENVIRONMENT_PREFIX


def pool_command(settings: Settings) -> list[str]:
    """Return the command line of the pool."""
    return [sys.executable, "-m", "netpolq_worker", settings_document.encode(settings)]


def pool_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the pool and of every process below it.

    It has no `NETPOLQ_*` variables: `run` has resolved the settings, and no child process may resolve them differently. PYTHONSAFEPATH
    keeps `python -m` from importing modules from the working directory, which other users may be able to write to.
    """
    kept = {name: text for name, text in environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, "PYTHONSAFEPATH": "1"}
