"""The command `flows`: shows what connected to what, with which verdict, and why."""

import os
import signal
import sys

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netpolq.cli.agents import check_cluster_only, cluster_of
from netpolq.cli.command import Command
from netpolq.errors import ExitCode, SettingsError
from netpolq.settings import command_flags as flags
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment

if TYPE_CHECKING:
    from netpolq.flow_view.local import Question
    from netpolq.flow_view.outputs import Output

_FILTERS = {
    "pod": flags.FLOW_POD,
    "namespace": flags.FLOW_NAMESPACE,
    "source": flags.FLOW_SOURCE,
    "destination": flags.FLOW_DESTINATION,
    "policy": flags.FLOW_POLICY,
    "port": flags.FLOW_PORT,
}


def _run(argv: Sequence[str]) -> int:
    values = Values(from_argv(flags.FLOWS_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    question = _question(values)
    is_cluster = bool(values[flags.CLUSTER_KUBECONFIG] or values[flags.CLUSTER_CONTEXT])
    check_cluster_only(values, is_cluster=is_cluster, advice="give --kubeconfig FILE or --context NAME, too")
    output = _output(values, is_cluster=is_cluster, follow=question.follow)
    if question.follow:
        return _follow(values, question, output, is_cluster=is_cluster)
    code = ExitCode.OK
    if is_cluster:
        code = _of_cluster(values, question, output)
    else:
        from netpolq.flow_view import local  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

        local.show(values[RUN_DIR], question, output)
    output.close(_since_s(question))
    return code


def _follow(values: Values, question: "Question", output: "Output", *, is_cluster: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the terminal is left in order
    since_s = _since_s(question)
    try:
        if is_cluster:
            _of_cluster(values, question, output)
        else:
            from netpolq.flow_view import local  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

            local.follow(values[RUN_DIR], question, output)
    except KeyboardInterrupt:
        return ExitCode.OK
    finally:
        output.close(since_s)
    return ExitCode.OK


def _of_cluster(values: Values, question: "Question", output: "Output") -> ExitCode:
    import asyncio  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    from netpolq.flow_view import remote  # noqa: PLC0415

    kubeconfig = values[flags.CLUSTER_KUBECONFIG] or os.environ.get("KUBECONFIG") or "~/.kube/config"
    cluster = cluster_of(values, kubeconfig, values[flags.CLUSTER_CONTEXT])
    if question.follow:
        asyncio.run(remote.follow(cluster, question, output))
        return ExitCode.OK
    return asyncio.run(remote.show(cluster, question, output))


def _question(values: Values) -> "Question":
    from netpolq.flow_view.local import Question  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
    from netpolq.flows.filter import FlowFilter  # noqa: PLC0415

    wanted = FlowFilter(**{field: values[option] for field, option in _FILTERS.items()}, denied=values[flags.DENIED])
    try:
        wanted.check()
    except ValueError as error:
        field, _colon, _text = str(error).partition(":")
        option = _FILTERS[field]
        raise SettingsError(
            f"flag --{option.name}: invalid value {values[option]!r}; allowed: {option.value_type.allowed}"
        ) from error
    follow, since_s = values[flags.FOLLOW], values[flags.SINCE]
    return Question(wanted=wanted, since_s=None if follow and values.given(flags.SINCE) is None else since_s, follow=follow)


def _output(values: Values, *, is_cluster: bool, follow: bool) -> "Output":
    from netpolq.flow_view import outputs  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    is_terminal = sys.stdout.isatty()
    chosen = values[flags.FLOW_OUTPUT] or ("text" if is_terminal else "json")
    is_wide = chosen == "wide"
    match chosen:
        case "raw":
            return outputs.RawLines()
        case "json":
            return outputs.JsonLines()
        case _ if is_terminal:
            from netpolq.flow_view import terminal  # noqa: PLC0415  # rich takes a tenth of a second

            return (terminal.LiveTable if follow else terminal.TerminalTable)(is_wide=is_wide, is_cluster=is_cluster)
        case _:
            return (outputs.PlainLines if follow else outputs.PlainTable)(is_wide=is_wide, is_cluster=is_cluster)


def _since_s(question: "Question") -> float | None:
    import time  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    return None if question.since_s is None else time.time() - question.since_s


FLOWS = Command(
    run=_run,
    usage="[flags]",
    summary="Show what connected to what, with which verdict, and why.",
    about=(
        "A flow is connections with the same ends, destination port, verdict and deciding policies. Agents count first packets of pods "
        "that a policy isolates, and keep an hour in windows of 15 s (--flows and --flow-records of `netpolq run`). A client that repeats "
        "a denied connection counts again; what the kernel's verdict cache answers shows up to ten seconds late. In text, the windows "
        "of a flow are one line, and lines below the table tell what is missing.",
        "Without --kubeconfig and --context the agent of this node answers, and only root may ask. With one of them, the command runs in "
        "the containers of all agents, through the API server: at most 16 at once, and 256 with --follow. That needs the verb list of "
        "pods and the verbs get and create of pods/exec in --agent-namespace.",
    ),
    groups=flags.FLOW_GROUPS,
    exit_codes={
        ExitCode.OK: "All agents have answered; with --follow also after Ctrl-C.",
        ExitCode.FAILED: "No agent has answered, or it does not record flows.",
        ExitCode.INCOMPLETE: "Some agents of the cluster could not be read: standard error names them.",
    },
    examples=(
        "# what connected to what in the last five minutes",
        "netpolq flows",
        "# what a policy denies",
        "netpolq flows --denied --policy shop/db --since 1h",
        "# what a pod connects to, with addresses",
        "netpolq flows --from shop/web-0 --output wide",
        "# which pods of a deployment ask DNS",
        "netpolq flows --from 'shop/web-*' --port 53/UDP",
        "# watch what is denied in a namespace, as it happens",
        "netpolq flows --follow --denied --namespace shop",
        "# a file of the last hour",
        "netpolq flows --since 1h --output json > flows.jsonl",
        "# from a laptop: the agents of all nodes, or of one",
        "netpolq flows --kubeconfig ~/.kube/config --denied",
        "netpolq flows --context production --node node-1 --follow",
    ),
)
