"""Where a command reads the objects of a cluster from: manifests, or the running agent of this node."""

from collections.abc import Sequence
from pathlib import Path

from netpolq.enums import DenyWith
from netpolq.errors import NetpolqError
from netpolq.explain.known import Known, Origin
from netpolq.model import Update
from netpolq.store import Store


def of_agent(run_dir: Path, ends: Sequence[str] | None) -> Known:
    """Return the objects of the agent that uses a run directory: those that decide about flows between ends, None: all.

    Raises `NetpolqError`.
    """
    from netpolq.supervisor import status_client  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    try:
        found = status_client.fetch_objects(run_dir, ends or ())
    except status_client.NoAgentError as error:
        raise NetpolqError(f"{error} To ask without an agent, give --manifests PATH or --kubeconfig FILE.") from error
    header = found.header
    if not header.compiled:
        raise NetpolqError("the agent has not compiled its policies yet, so it cannot answer; ask again in a moment")
    store = Store()
    store.apply(Update(upserted=found.objects, rejections=found.rejections, ignored={}, observed_ns=0))
    for address, names in found.names.items():
        store.set_names(address, names)
    in_force = header.in_force_version == header.snapshot_version
    state = "in force" if in_force else f"not in force yet (version {header.in_force_version} is)"
    ahead = "; the answer has changes that are not published yet" if header.is_ahead else ""
    agent = {
        "node": header.node,
        "snapshot_version": header.snapshot_version,
        "in_force_version": header.in_force_version,
        "in_force": in_force,
        "is_ahead": header.is_ahead,
    }
    line = f"version {header.snapshot_version} of the agent on {header.node}, {state}{ahead}"
    return Known(
        store=store, origin=Origin(where="the agent", line=line, fields={"agent": agent}), deny_with=DenyWith(header.deny_with)
    )
