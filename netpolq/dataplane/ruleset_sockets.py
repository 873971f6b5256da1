"""Sockets of one `Ruleset`: they commit its changes and receive notifications about the changes of other processes."""

import asyncio
import time
import weakref

from collections.abc import Callable, Sequence
from contextlib import suppress

from netpolq.dataplane.change_monitor import ChangeMonitor, is_later
from netpolq.dataplane.kernel_errors import explained
from netpolq.dataplane.ruleset_names import TABLE, VerdictMaps
from netpolq.dataplane.verdict_maps import MAX_DECISIONS, forget, forget_all
from netpolq.ipc.channel import CachedVerdict
from netpolq.netlink.nftables import Connection, Request, commit

_NOTIFICATION_LIMIT_S = 1.0


class _OpenSockets:
    """`sets`: for changes of sets and of the queue rule; `maps`: for changes of the verdict maps; `monitor`: for notifications."""

    def __init__(self) -> None:
        self.sets, self.maps = Connection(), Connection()
        self.monitor = ChangeMonitor(TABLE, (self.sets.port, self.maps.port))

    def close(self) -> None:
        for one in (self.sets.socket, self.maps.socket, self.monitor.socket):
            one.close()


class RulesetSockets:
    """The sockets, opened by the first installation: before it there is nothing to monitor. Closed with this object.

    Methods may raise `PrivilegeError` or `RulesetError`. Those without `async` block, except `watch` and `monitor`.
    """

    def __init__(self, maps: VerdictMaps) -> None:
        self._maps = maps
        self._sockets: _OpenSockets | None = None
        self._on_change: Callable[[], None] | None = None

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call this, from now on, when another process has changed the table. Needs a running loop."""
        self._on_change = on_change
        if self._sockets is not None:
            monitor = self._sockets.monitor
            asyncio.get_running_loop().add_reader(monitor.socket.fileno(), _read_notifications, monitor, on_change)

    @property
    def may_have_changed(self) -> bool:
        """Whether another process has touched the table since it was last read or installed, according to the notifications."""
        return self._sockets is not None and self._sockets.monitor.has_news

    @property
    def monitor(self) -> ChangeMonitor:
        """The monitor of changes. Opens the sockets if they are not open yet."""
        return self._open().monitor

    async def wait_for_notification(self, generation: int) -> None:
        """Wait for the notification of a generation: the kernel sends it just after the change has taken effect.

        After a limit this gives up and sets `ChangeMonitor.has_lost_some`.
        """
        monitor = self.monitor
        deadline_s = time.monotonic() + _NOTIFICATION_LIMIT_S
        monitor.read()
        while monitor.generation is None or is_later(generation, monitor.generation):
            if monitor.has_lost_some or time.monotonic() > deadline_s:
                monitor.has_lost_some = True
                return
            await asyncio.sleep(0.001)
            monitor.read()

    def commit(self, requests: tuple[Request, ...]) -> None:
        """Commit changes of sets or of the queue rule in one transaction."""
        with explained():
            self._open().sets.commit(requests)

    def commit_to_maps(self, requests: tuple[Request, ...]) -> None:
        """Commit changes of the verdict maps in one transaction."""
        with explained():
            self._commit_to_maps(requests)

    def forget(self, entries: Sequence[CachedVerdict] | None) -> bool:
        """Remove decisions from the verdict maps; see `Ruleset.forget_verdicts`."""
        if entries is not None and len(entries) <= MAX_DECISIONS and self._try_commit_to_maps(forget(self._maps, entries)):
            return True
        self._try_commit_to_maps(forget_all(self._maps))
        return False

    def _open(self) -> _OpenSockets:
        if self._sockets is None:
            with explained():
                self._sockets = _OpenSockets()
            weakref.finalize(self, self._sockets.close)
            if self._on_change is not None:
                self.watch(self._on_change)
        return self._sockets

    def _commit_to_maps(self, requests: tuple[Request, ...]) -> None:
        (commit if self._sockets is None else self._sockets.maps.commit)(requests)

    def _try_commit_to_maps(self, requests: tuple[Request, ...]) -> bool:
        """Whether everything that the requests remove was there."""
        with explained(), suppress(FileNotFoundError):
            self._commit_to_maps(requests)
            return True
        return False


def _read_notifications(monitor: ChangeMonitor, on_change: Callable[[], None]) -> None:
    monitor.read()
    if monitor.has_news:
        on_change()
