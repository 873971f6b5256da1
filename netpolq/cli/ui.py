"""The command `ui`: serves a page that shows connections, policies and agents."""

import ipaddress
import os
import signal
import sys

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netpolq.cli.agents import check_cluster_only, cluster_of
from netpolq.cli.command import Command
from netpolq.errors import ExitCode, NetpolqError, SettingsError
from netpolq.ipc.run_dir import STATUS_SOCKET
from netpolq.settings import command_flags as flags
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment

if TYPE_CHECKING:
    from netpolq.ipc.agent_settings import BindAddress
    from netpolq.ui.agents.source import Source


def _run(argv: Sequence[str]) -> int:
    import asyncio  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(flags.UI_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    listen = _listen(values)
    make_source = _source(values)
    try:
        asyncio.run(_serve(make_source, listen))
    except* NetpolqError as errors:
        raise _first(errors) from None
    return ExitCode.OK


async def _serve(make_source: "Callable[[], Source]", listen: "BindAddress") -> None:
    """Serve until SIGINT or SIGTERM."""
    import asyncio  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    from netpolq.ui.server import serving  # noqa: PLC0415

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(make_source(), listen) as url:
        print(url, flush=True)
        if sys.stdout.isatty():
            print("Ctrl-C ends it.", file=sys.stderr)
        await ended.wait()


def _first(errors: BaseException) -> BaseException:
    """The first error in a group."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


def _listen(values: Values) -> "BindAddress":
    """Return the address. Raises `SettingsError` unless only this machine can reach it: the page asks for no password."""
    listen = values[flags.UI_LISTEN]
    try:
        is_loopback = ipaddress.ip_address(listen.host).is_loopback
    except ValueError:
        is_loopback = listen.host == "localhost"
    if not is_loopback:
        raise SettingsError(
            f"--listen {listen}: the page asks for no password, so only this machine may reach it; give 127.0.0.1:{listen.port} "
            "and forward the port, as with ssh -L"
        )
    return listen


def _source(values: Values) -> "Callable[[], Source]":
    """Return what makes the source that the flags name, once an event loop runs. Raises `SettingsError` for flags that do not fit."""
    is_cluster = bool(values[flags.CLUSTER_KUBECONFIG] or values[flags.CLUSTER_CONTEXT])
    check_cluster_only(values, is_cluster=is_cluster, advice="give --kubeconfig FILE or --context NAME, too")
    sockets = [part for part in values[flags.UI_SOCKETS].split(",") if part]
    chosen = {
        "--demo": values[flags.UI_DEMO],
        "--agent": bool(sockets),
        "--kubeconfig or --context": is_cluster,
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
        kubeconfig = values[flags.CLUSTER_KUBECONFIG] or os.environ.get("KUBECONFIG") or "~/.kube/config"
        cluster = cluster_of(values, kubeconfig, values[flags.CLUSTER_CONTEXT])

        def of_cluster() -> "Source":
            from netpolq.ui.agents.exec import ExecAgents  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

            return ExecAgents(cluster)

        return of_cluster
    paths = [Path(socket) for socket in sockets] or [values[RUN_DIR] / STATUS_SOCKET]

    def of_sockets() -> "Source":
        from netpolq.ui.agents.local import LocalAgents  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

        return LocalAgents(paths)

    return of_sockets


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
        "The page asks for no password, so it is served to this machine only.",
    ),
    groups=flags.UI_GROUPS,
    exit_codes={
        ExitCode.OK: "It was ended by Ctrl-C or SIGTERM.",
        ExitCode.FAILED: "The kubeconfig cannot be used.",
        ExitCode.BOOT: "The address of --listen is in use, or does not exist.",
    },
    examples=(
        "# look at a made-up cluster",
        "netpolq ui --demo",
        "# the agent of this node, as root",
        "netpolq ui",
        "# all agents of a cluster, from a laptop",
        "netpolq ui --kubeconfig ~/.kube/config",
        "netpolq ui --context production --node node-1 --listen 127.0.0.1:9000",
        "# two agents of a test, and a port that is free",
        "netpolq ui --agent /run/a/netpolq.sock,/run/b/netpolq.sock --listen 127.0.0.1:0",
    ),
)
