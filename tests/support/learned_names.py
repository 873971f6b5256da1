"""The part of the supervisor that learns names, for tests without the whole supervisor."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from netpolq.ipc.channel import Channel
from netpolq.policy.compiler import Compiler
from netpolq.store import Store
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.names_file import NamesFile
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.timings import Timings


def learned_names(
    channel: Channel, progress: Progress, run_dir: Path, *, store: Store | None = None, compiler: Compiler | None = None
) -> LearnedNames:
    """With a minimum TTL of 30 s and a grace period of 60 s. Without a store: of an empty one."""
    store = Store() if store is None else store
    return LearnedNames(
        store=store,
        compiler=Compiler(store, is_local=lambda _pod: True) if compiler is None else compiler,
        progress=progress,
        channel=channel,
        file=NamesFile(run_dir / "names.json"),
        timings=Timings(CollectorRegistry()),
        min_ttl_s=30,
        grace_s=60,
    )
