"""The commands `run`, `supervise` and `reload`: start the agent, start its supervisor, and resolve the settings again."""

import json
import os
import sys

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from netpolq.cli.command import Command
from netpolq.cli.manifests import require_folder
from netpolq.cli.pool import pool_command, pool_environment
from netpolq.errors import ExitCode, SettingsError
from netpolq.ipc import settings_document, takeover
from netpolq.settings import Settings, resolve
from netpolq.settings.definitions import GROUPS
from netpolq.settings.options import ENVIRONMENT_PREFIX

_ORIGIN = "_NETPOLQ_ORIGIN"
"""Environment variable with the arguments and `NETPOLQ_*` variables of `run`, from which a reload starts. Its name lacks the prefix of
settings, so that `pool_environment` passes it on."""

_EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.OK: "success, or the agent ended on SIGTERM",
    ExitCode.FAILED: "failure; status: the agent is not ready or does not answer; support-bundle: a part could not be read; "
    "explain: a line of --packets is invalid",
    ExitCode.USAGE: "a flag, environment variable or file entry is invalid",
    ExitCode.PRIVILEGES: "a privilege is missing: root, or CAP_NET_ADMIN and any others that the message names",
    ExitCode.QUEUE_TAKEN: "another program serves one of the queues",
    ExitCode.KERNEL: "the kernel lacks a feature that enforcement needs",
    ExitCode.ALREADY_RUNNING: "another agent serves this network namespace",
    ExitCode.BOOT: "the agent cannot start, and a retry would not help",
    ExitCode.UNEXPECTED: "explain: the verdict differs from --expect; diff: a connection changes",
    ExitCode.INCOMPLETE: "flows: some agents of the cluster could not be read",
}


def _run(argv: Sequence[str]) -> int:
    settings = resolve(argv, os.environ)
    if settings.manifests is not None:
        require_folder(settings.manifests)
        if settings.kubeconfig:
            raise SettingsError(f"--kubeconfig {settings.kubeconfig!r} cannot be combined with --manifests; allowed: one source")
    settings = _with_kubeconfig(settings, os.environ)
    if settings.takeover:
        found = takeover.queues_beside(settings.all_queues)
        settings = settings.with_queues(found[: settings.queue_count])
    environment = {**pool_environment(os.environ), _ORIGIN: _origin(argv, os.environ)}
    os.execve(sys.executable, pool_command(settings), environment)  # noqa: S606  # no shell is wanted


def _supervise(argv: Sequence[str]) -> int:
    with _no_default_certificates():
        from netpolq.supervisor import app  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    return app.main(settings_document.decode(" ".join(argv)))


@contextmanager
def _no_default_certificates() -> Iterator[None]:
    """Hide the system's certificates from OpenSSL.

    aiohttp loads them while it is imported (a quarter of the supervisor's imports), for a default context that the agent does not use:
    connections to the API server have a context of their own. Source of the variables: SSL_CTX_set_default_verify_paths(3).
    """
    before = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ |= dict.fromkeys(before, os.devnull)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reload(argv: Sequence[str]) -> int:
    """Resolve the settings again and print their document. The pool runs this command on SIGHUP.

    `argv`: the queues in use, which may differ from the settings after a takeover.
    """
    origin = os.environ.get(_ORIGIN)
    if origin is None or len(argv) != 1:
        raise SettingsError("`netpolq reload` is internal to a running agent; to reload its settings, send SIGHUP to the agent")
    given, environ = json.loads(origin)
    settings = _with_kubeconfig(resolve(given, environ), os.environ)
    first, last = map(int, argv[0].split(":"))
    if settings.takeover and settings.queue_count == last - first + 1:
        settings = settings.with_queues(range(first, last + 1))
    print(settings_document.encode(settings))
    return ExitCode.OK


def _origin(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    return json.dumps([list(argv), {name: text for name, text in environ.items() if name.startswith(ENVIRONMENT_PREFIX)}])


def _with_kubeconfig(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the settings with `~` expanded, and with the files of KUBECONFIG if neither --kubeconfig nor --manifests is given.

    Relative paths stay relative: all processes of the agent have the same working directory.
    """
    if settings.manifests is not None:
        return settings
    paths = settings.kubeconfig or environ.get("KUBECONFIG", "")
    return replace(settings, kubeconfig=":".join(os.path.expanduser(path) for path in paths.split(":") if path))  # noqa: PTH111  # Path raises without a home


RUN = Command(
    run=_run,
    usage="[flags]",
    summary="Enforce network policies (the agent).",
    about=(
        "The agent runs in the foreground and enforces policies in its own network namespace. On SIGTERM it ends and leaves its rules "
        "in place, so that traffic stays filtered during a restart; `netpolq cleanup` removes them. On SIGHUP it reads the file of "
        "--config again. Settings of logging, and settings that workers do not use, change at once. If any other setting has changed, "
        "nothing changes, and the log names that setting.",
        "Every flag can also be set by its environment variable, or in the TOML file of --config under the flag's name without dashes. "
        "Precedence: flag, environment variable, file, default.",
        "`--flag VALUE`, `--flag=VALUE`, `-flag VALUE` and `-flag=VALUE` are equivalent. A flag with [=BOOL] needs no value: alone it "
        "means true, and it never uses the next argument as its value. Flags marked * also exist in the kube-network-policies agent.",
    ),
    groups=GROUPS,
    exit_codes=_EXIT_CODES,
    examples=(
        "# enforce the manifests of a folder; drop new connections while no worker can evaluate them",
        "netpolq run --manifests /etc/netpolq/manifests --no-fail-open",
        "# log each denied connection in JSON",
        "netpolq run --config /etc/netpolq/netpolq.toml --log-denied --logging-format json",
    ),
)
SUPERVISE = Command(run=_supervise, usage="DOCUMENT", summary="")
RELOAD = Command(run=_reload, usage="QUEUES", summary="")
