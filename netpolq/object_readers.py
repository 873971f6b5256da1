"""The objects of a cluster, read once: from its API server, or from the running agent of a node. Manifests: `netpolq.explain.manifests`."""

import asyncio
import os
import sys
import time

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from netpolq.enums import DenyWith, Enforcement
from netpolq.errors import NetpolqError
from netpolq.explain import endpoints
from netpolq.explain.known import Known, Origin, Others
from netpolq.model import Update
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.others import OTHERS, decode_others
from netpolq.store import Store

if TYPE_CHECKING:
    from netpolq.sources.kubernetes.one_time_list import Extra
    from netpolq.supervisor.objects_report import Objects


def of_cluster(kubeconfig: str, context: str, ends: Sequence[str] | None) -> Known:
    """Return all objects of a cluster, listed once; of the kinds that an agent does not use, those that the ends may need.

    Tells the progress on standard error if that is a terminal. Raises `NetpolqError`.
    """
    from netpolq.sources.kubernetes.one_time_list import Progress, list_cluster  # noqa: PLC0415  # takes time, and only where a cluster is asked

    others = Others()

    def show(progress: Progress) -> None:
        total = f" of {progress.read + progress.remaining}" if progress.remaining else ""
        sys.stderr.write(f"\r\x1b[Klisting {progress.plural}: {progress.read}{total}")
        sys.stderr.flush()

    is_shown = sys.stderr is not None and sys.stderr.isatty()
    paths = ":".join(os.path.expanduser(path) for path in kubeconfig.split(":") if path)  # noqa: PTH111  # Path raises without a home
    try:
        listed = asyncio.run(list_cluster(paths, context, _extras(others, ends), show if is_shown else lambda _progress: None))
    finally:
        if is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
    store = Store()
    store.apply(Update(upserted=tuple(listed.objects), rejections=tuple(listed.rejections), ignored={}, observed_ns=0))
    began = datetime.fromtimestamp(listed.began_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    took_s = time.time() - listed.began_s
    origin = Origin(
        where=f"the cluster of {listed.server}",
        line=f"of {listed.server}, listed at {began} within {took_s:.1f} s",
        fields={"cluster": {"server": listed.server, "listed_at": began, "took_s": round(took_s, 3)}},
    )
    others.missing.update(listed.skipped)
    return Known(store=store, origin=origin, others=others)


def _extras(others: Others, ends: Sequence[str] | None) -> "list[Extra]":
    """Return the resources that questions about these ends may need: Services unless all ends are pods, and workloads of the given kind."""
    from netpolq.sources.kubernetes.one_time_list import Extra  # noqa: PLC0415

    def take(body: object) -> None:
        for item in decode_others(body):
            if isinstance(item, DecodeError):
                others.rejections.append(item.rejection())
            else:
                others.add(item)

    kinds = [kind for kind in map(endpoints.kind_of, ends or ()) if kind != "Pod"]
    if not kinds:
        return []
    wanted = dict.fromkeys(("Service", "EndpointSlice", *(kind for kind in kinds if kind in OTHERS)))
    return [Extra(kind, OTHERS[kind], _path(kind), take) for kind in wanted]


def _path(kind: str) -> str:
    version = OTHERS[kind]
    return f"/{'apis' if '/' in version else 'api'}/{version}/{kind.lower()}s"


def of_agent(run_dir: Path, ends: Sequence[str] | None) -> Known:
    """Return the objects of the agent that uses a run directory: those that decide about flows between ends, None: all.

    Raises `NetpolqError`.
    """
    from netpolq.supervisor import status_client  # noqa: PLC0415  # only where an agent is asked

    check_ends_of_agent(ends or ())
    try:
        found = status_client.fetch_objects(run_dir, ends or ())
    except status_client.NoAgentError as error:
        raise NetpolqError(f"{error} To ask without an agent, give --manifests PATH or --kubeconfig FILE.") from error
    return known_of_agent(found)


def check_ends_of_agent(ends: Sequence[str]) -> None:
    """Raises `NetpolqError` for an end of a kind that agents do not know."""
    if other := next((end for end in ends if endpoints.kind_of(end) in OTHERS and end.count("/") > 1), None):
        raise NetpolqError(
            f"{other}: an agent knows no Services and workloads; give --kubeconfig FILE or --manifests PATH, or a pod or an address"
        )


def known_of_agent(found: "Objects") -> Known:
    """Return what an agent has told as objects to ask about. Raises `NetpolqError` if it has no compiled policies yet."""
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
        store=store,
        origin=Origin(where="the agent", line=line, fields={"agent": agent}),
        deny_with=DenyWith(header.deny_with),
        enforcement=Enforcement(header.enforcement),
    )
