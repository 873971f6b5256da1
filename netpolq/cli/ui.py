"""The command `ui`: serves a page that shows connections, policies and agents."""

import os
import signal
import sys

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netpolq.cli.agents import check_cluster_only, cluster_of
from netpolq.cli.command import Command
from netpolq.errors import BootError, ExitCode, NetpolqError, SettingsError
from netpolq.ipc.run_dir import STATUS_SOCKET
from netpolq.settings import command_flags as flags
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment
from netpolq.settings.ui_access_flags import (
    AGENT_TLS,
    ALLOWED_HOSTS,
    AUTHENTICATION,
    REPORT_PORT,
    TLS_CERTIFICATE,
    TLS_KEY,
    TOKEN_FILE,
    Authentication,
)

if TYPE_CHECKING:
    from netpolq.flow_view.exec_command import Cluster
    from netpolq.tls import TlsFile
    from netpolq.ui.access.settings import Access
    from netpolq.ui.agents.source import Source

_GC_THRESHOLDS = (50_000, 20, 50)
"""With those of the interpreter, each answer about 100,000 flows looks at all of them several times. Source: loadtest/ui_costs.py, where
the longest answer takes half of the time with these.
"""


def _run(argv: Sequence[str]) -> int:
    import asyncio  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(flags.UI_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    access = _access(values)
    make_source = _source(values)
    try:
        asyncio.run(
            _serve(make_source, access, _kubeconfig(values) if access.authentication is Authentication.KUBERNETES else None)
        )
    except* NetpolqError as errors:
        raise _first(errors) from None
    return ExitCode.OK


async def _serve(make_source: "Callable[[], Source]", access: "Access", users: "tuple[str, str] | None") -> None:
    """Serve until SIGINT or SIGTERM. `users`: kubeconfig and context of the API server that knows them, or None."""
    import asyncio  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
    import gc  # noqa: PLC0415

    from netpolq.ui.server import serving  # noqa: PLC0415

    gc.set_threshold(*_GC_THRESHOLDS)
    connection = None
    if users is not None:
        from netpolq.sources.kubernetes.connection import Connection  # noqa: PLC0415

        connection = Connection(users[0], context=users[1], advice="see --authentication and --kubeconfig")
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(make_source(), access, connection) as url:
        print(url, flush=True)
        if sys.stdout.isatty():
            print("Ctrl-C ends it.", file=sys.stderr)
        await ended.wait()


def _first(errors: BaseException) -> BaseException:
    """The first error in a group."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


def _access(values: Values) -> "Access":
    """Return the settings of access. Raises `SettingsError` for those that are not safe together."""
    from netpolq.ui.access.settings import check  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    return check(
        listen=values[flags.UI_LISTEN],
        allowed_hosts=tuple(filter(None, values[ALLOWED_HOSTS].split(","))),
        tls_certificate=values[TLS_CERTIFICATE],
        tls_key=values[TLS_KEY],
        token_file=values[TOKEN_FILE],
        authentication=values[AUTHENTICATION],
    )


def _kubeconfig(values: Values) -> tuple[str, str]:
    """Return kubeconfig and context; an empty kubeconfig is the service account of a pod."""
    context = values[flags.CLUSTER_CONTEXT]
    given = values[flags.CLUSTER_KUBECONFIG] or os.environ.get("KUBECONFIG", "")
    if not given and (context or "KUBERNETES_SERVICE_HOST" not in os.environ):
        given = "~/.kube/config"
    return given, context


def _agent_tls(values: Values) -> "tuple[TlsFile, TlsFile, TlsFile] | None":
    """Return the files for agents over TLS, None if the flags name none. Raises `SettingsError` if they name some of them."""
    from netpolq.tls import TlsFile  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    found = [TlsFile(flag=f"--{option.name}", path=path) for option in AGENT_TLS if (path := values[option]) is not None]
    if not found:
        if (port := values.given(REPORT_PORT)) is not None:
            raise SettingsError(f"{port.origin}: is for agents over TLS; give --{AGENT_TLS[0].name}, too")
        return None
    if len(found) < len(AGENT_TLS):
        missing = " and ".join(f"--{option.name}" for option in AGENT_TLS if values[option] is None)
        raise SettingsError(f"{found[0].flag}: needs {missing}, too")
    certificate, key, authority = found
    return certificate, key, authority


def _source(values: Values) -> "Callable[[], Source]":
    """Return what makes the source that the flags name, once an event loop runs. Raises `SettingsError` for flags that do not fit."""
    agent_tls = _agent_tls(values)
    is_cluster = bool(values[flags.CLUSTER_KUBECONFIG] or values[flags.CLUSTER_CONTEXT] or agent_tls)
    check_cluster_only(values, is_cluster=is_cluster, advice="give --kubeconfig FILE or --context NAME, too")
    sockets = [part for part in values[flags.UI_SOCKETS].split(",") if part]
    chosen = {
        "--demo": values[flags.UI_DEMO],
        "--agent": bool(sockets),
        f"--{AGENT_TLS[0].name}" if agent_tls else "--kubeconfig or --context": is_cluster,
    }
    given = [name for name, is_given in chosen.items() if is_given]
    if len(given) > 1:
        raise SettingsError(f"{given[0]}: cannot be combined with {given[1]}; allowed: one of them")
    run_dir = values.given(RUN_DIR)
    if run_dir is not None and run_dir.origin.startswith("flag") and given and not is_cluster:
        raise SettingsError(f"flag --run-dir: cannot be combined with {given[0]}; allowed: one of the two")
    if values[flags.UI_DEMO]:
        return _demonstration
    if is_cluster:
        cluster = cluster_of(values, *_kubeconfig(values))

        def of_cluster() -> "Source":
            from netpolq.ui.agents.exec import ExecAgents  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

            return ExecAgents(cluster)

        return of_cluster if agent_tls is None else _over_tls(cluster, agent_tls, values[REPORT_PORT])
    paths = [Path(socket) for socket in sockets] or [values[RUN_DIR] / STATUS_SOCKET]

    def of_sockets() -> "Source":
        from netpolq.ui.agents.local import LocalAgents  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

        return LocalAgents(paths)

    return of_sockets


def _over_tls(cluster: "Cluster", files: "tuple[TlsFile, TlsFile, TlsFile]", port: int) -> "Callable[[], Source]":
    """Return what makes the source of agents over TLS, and then raises `BootError` for a file that cannot be used."""

    def made() -> "Source":
        from netpolq.tls import TlsFileError, client_context  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
        from netpolq.ui.agents.mutual_tls import MutualTlsAgents  # noqa: PLC0415

        try:
            return MutualTlsAgents(cluster, client_context(*files), port)
        except TlsFileError as error:
            raise BootError(str(error)) from error

    return made


def _demonstration() -> "Source":
    from netpolq.ui.agents.demonstration import Demonstration  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    return Demonstration()


UI = Command(
    run=_run,
    usage="[flags]",
    summary="Serve a page that shows connections, policies and agents.",
    about=(
        "The page shows a map of workloads and their connections, the flows of the last hour, policies with how often each rule decided, "
        "and the state of agents; it explains connections, and tells what changed policies would cut. It changes nothing. The URL is "
        "printed once it is served; Ctrl-C ends it.",
        "Without --kubeconfig and --context the agent of this node is read, and only root may do that. With one of them, `netpolq flows` "
        "and `netpolq status` run in the containers of all agents, through the API server, and the API server lists the objects. That "
        "needs the rights of `netpolq flows` and of `netpolq explain --kubeconfig`. If one agent cannot be read, the page tells why, "
        "and the command goes on.",
        "With --agent-tls-certificate the agents are read over TLS instead (see --report-bind-address of `netpolq run`), which needs no "
        "right to run commands in containers.",
        "On a loopback address of --listen the page asks for no token. Every other address needs a certificate, and --token-file or "
        "--authentication kubernetes.",
    ),
    groups=flags.UI_GROUPS,
    exit_codes={
        ExitCode.OK: "It was ended by Ctrl-C or SIGTERM.",
        ExitCode.FAILED: "The kubeconfig cannot be used.",
        ExitCode.BOOT: "The address of --listen is in use, or does not exist; or a file of a certificate or token cannot be used.",
    },
    examples=(
        "# look at a made-up cluster",
        "netpolq ui --demo",
        "# the agent of this node, as root",
        "netpolq ui",
        "# all agents of a cluster, from a laptop",
        "netpolq ui --kubeconfig ~/.kube/config",
        "netpolq ui --context production --node node-1 --listen 127.0.0.1:9000",
        "# for other machines, with a token",
        "netpolq ui --listen :8443 --tls-certificate tls.crt --tls-key tls.key --token-file token --allowed-host netpolq.example",
        "# two agents of a test, and a port that is free",
        "netpolq ui --agent /run/a/netpolq.sock,/run/b/netpolq.sock --listen 127.0.0.1:0",
    ),
)
