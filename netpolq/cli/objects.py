"""Where a command reads the objects of a cluster from: manifests, the API server, or the running agent of this node."""

import asyncio
import os
import sys
import time

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from netpolq.cli.manifests import require_folder_or_file
from netpolq.enums import DenyWith, Enforcement
from netpolq.errors import NetpolqError, SettingsError
from netpolq.explain import endpoints
from netpolq.explain.known import Known, Origin, Others, Read
from netpolq.model import Update
from netpolq.settings.command_flags import CLUSTER, CONTEXT, MANIFESTS_TO_READ
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.others import OTHERS, decode_others
from netpolq.store import Store

if TYPE_CHECKING:
    from netpolq.sources.kubernetes.one_time_list import Extra


def reader(values: Values) -> Read:
    """Return the reader of the place that the flags name: manifests, a cluster, otherwise the running agent. Raises `SettingsError`."""
    from netpolq.explain import manifests  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    folder, cluster, context = map(values.given, (MANIFESTS_TO_READ, CLUSTER, CONTEXT))
    if folder is not None and cluster is not None:
        raise SettingsError(f"{cluster.origin}: {cluster.text!r} cannot be combined with --manifests; allowed: one of the two")
    if context is not None and cluster is None:
        raise SettingsError(f"{context.origin}: {context.text!r} needs --kubeconfig FILE")
    if folder is not None:
        return manifests.reader(require_folder_or_file(values[MANIFESTS_TO_READ]))
    if cluster is not None:
        if not values[CLUSTER]:
            raise SettingsError(f"{cluster.origin}: a path is required")
        return partial(of_cluster, values[CLUSTER], values[CONTEXT])
    return partial(of_agent, values[RUN_DIR])


CLUSTER_PLACE, AGENT_PLACE = "cluster:", "agent:"
"""Places of objects beside paths. The colon keeps them apart from names of files; `./cluster:` is a path."""


def reader_of_place(name: str, place: str, values: Values) -> Read:
    """Return the reader of an argument that is a path, `cluster:`, `cluster:CONTEXT` or `agent:`. `name`: of the argument.

    Raises `SettingsError`.
    """
    from netpolq.explain import manifests  # noqa: PLC0415

    if place == AGENT_PLACE:
        return partial(of_agent, values[RUN_DIR])
    if place.startswith(CLUSTER_PLACE):
        if not values[CLUSTER]:
            raise SettingsError(f"{name} {place!r} needs --kubeconfig FILE")
        return partial(of_cluster, values[CLUSTER], place.removeprefix(CLUSTER_PLACE))
    return manifests.reader(require_folder_or_file(MANIFESTS_TO_READ.value_type.parse(place), name))


def of_cluster(kubeconfig: str, context: str, ends: Sequence[str] | None) -> Known:
    """Return all objects of a cluster, listed once; of the kinds that an agent does not use, those that the ends may need.

    Tells the progress on standard error if that is a terminal. Raises `NetpolqError`.
    """
    from netpolq.sources.kubernetes.one_time_list import Progress, list_cluster  # noqa: PLC0415

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
    from netpolq.supervisor import status_client  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    if other := next((end for end in ends or () if endpoints.kind_of(end) in OTHERS and end.count("/") > 1), None):
        raise NetpolqError(
            f"{other}: an agent knows no Services and workloads; give --kubeconfig FILE or --manifests PATH, or a pod or an address"
        )
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
        store=store,
        origin=Origin(where="the agent", line=line, fields={"agent": agent}),
        deny_with=DenyWith(header.deny_with),
        enforcement=Enforcement(header.enforcement),
    )
