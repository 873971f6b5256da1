"""The command `explain`: shows which policies decide a connection, from the running agent or from manifests."""

import os

from collections.abc import Sequence

from netpolq.cli.command import Command, plain
from netpolq.errors import ExitCode, SettingsError
from netpolq.settings.command_flags import (
    DESTINATION,
    ENGINE,
    EXPECT,
    EXPLAIN_OPTIONS,
    NAMES,
    OUTPUT,
    PACKETS,
    PORT,
    PROTOCOL,
    QUESTION,
    SOURCE,
    VIA_SERVICE,
)
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment


def _run(argv: Sequence[str]) -> int:
    from netpolq import explain  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
    from netpolq.cli import objects  # noqa: PLC0415

    values = Values(from_argv(EXPLAIN_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    if values[PACKETS] and (given := next(filter(None, map(values.given, QUESTION)), None)):
        raise SettingsError(f"{given.origin}: {given.text!r} cannot be combined with --packets; each line has its own value")
    return explain.run(
        read=objects.reader(values),
        source=values[SOURCE] or None,
        destination=values[DESTINATION] or None,
        protocol=values[PROTOCOL],
        port=values[PORT] or None,
        via_service=values[VIA_SERVICE],
        names=values[NAMES],
        packets=values[PACKETS] or None,
        evaluator=values[ENGINE],
        output=values[OUTPUT],
        expect=values[EXPECT] or None,
    )


EXPLAIN = Command(
    run=_run,
    usage="--src ENDPOINT --dst ENDPOINT [flags]",
    summary="Show which policies decide a connection.",
    about=(
        "Give either --src and --dst, or --packets. The objects come from --manifests, or from the API server of --kubeconfig, which is "
        "asked once. Otherwise the running agent of this node tells what it knows: its objects are those of the newest version of its "
        "policies, its learned names count, and the last line names the version. To ask the agent needs root or its user; nothing else "
        "needs privileges.",
        "For a denied connection the answer lists each isolating policy with the part of its closest rule that does not match (peer, port "
        "or protocol), and the smallest addition to a policy that would allow the connection. No DNS server is asked: names have the "
        "addresses that the agent has learned, and those of --name. The answer lists the rules that would allow the connection by a name. "
        "If --dst is a domain name, each of its addresses has an answer of its own.",
        "--dst may also be a Service: service/NAMESPACE/NAME, svc/NAME, one of its addresses, its name in the cluster's DNS, or the "
        "address of a node with a node port. Each ready endpoint (of its EndpointSlices, otherwise of its selector) has an answer, with "
        "the port behind the Service. --src and --dst may be a workload, as in deployment/shop/web or sts/shop/db: a pod with the labels "
        "of its template stands for it, or, if there is none, the template itself. Manifests and API server have Services and workloads; "
        "an agent has none.",
    ),
    groups=plain(*EXPLAIN_OPTIONS),
    exit_codes={
        ExitCode.OK: "The answer is complete, and every verdict is the one of --expect.",
        ExitCode.FAILED: "An end does not exist or has no address, no agent or API server answers, or a line of --packets is invalid.",
        ExitCode.UNEXPECTED: "A verdict differs from --expect.",
    },
    # Each example was run, with an agent and manifests like those of its tests.
    examples=(
        "# ask the agent of this node why the frontend cannot reach the database",
        "netpolq explain --src shop/frontend --dst shop/db --port 5432",
        "# ask the API server, from anywhere",
        "netpolq explain --kubeconfig ~/.kube/config --src shop/frontend --dst shop/db --port 5432",
        "# the same from manifests",
        "netpolq explain --manifests manifests --src shop/frontend --dst shop/db --port 5432",
        "# a named port; a single file; addresses that belong to no pod",
        "netpolq explain --manifests policies.yaml --src 192.0.2.7 --dst shop/db:postgres",
        "netpolq explain --manifests manifests --src [fd00::7] --dst [fd00::1]:5432 -o json",
        "# a test in CI: exit code 8 if the connection is allowed",
        "netpolq explain --manifests manifests --src other/pod --dst shop/db --port 5432 --expect deny",
        "# a rule with domain names",
        "netpolq explain --manifests manifests --src shop/web --dst 192.0.2.1:443 --name deb.debian.org=192.0.2.1",
        "# many packets, one JSON object a line",
        "netpolq explain --manifests manifests --packets questions.jsonl",
    ),
)
