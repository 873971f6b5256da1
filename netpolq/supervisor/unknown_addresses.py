"""Whether packets of unknown addresses wait: where addresses of this node's pods lie, and the rules that follow from that.

The pod ranges of the Node may become known while the agent runs. Then the ruleset is installed once more, with them.
"""

import asyncio
import logging

from collections.abc import Callable
from dataclasses import replace

from netpolq.dataplane.install import Ruleset
from netpolq.enums import HoldUnknown
from netpolq.hold.ranges import PodRange, listed
from netpolq.settings import Settings
from netpolq.sources.source import Source

_CHECK_INTERVAL_S = 1.0

log = logging.getLogger("unknown-addresses")


class UnknownAddresses:
    """Keeps the ruleset's pod ranges those of the settings or of the Node. `on_change`: called when the ruleset must be installed.

    `pod_ranges`: those in use. `is_active`: whether packets of unknown addresses wait.
    """

    def __init__(self, settings: Settings, ruleset: Ruleset, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._ruleset = ruleset
        self._on_change = on_change
        self.pod_ranges: tuple[PodRange, ...] = ruleset.config.pod_ranges

    @property
    def is_active(self) -> bool:
        return bool(self.pod_ranges or self._ruleset.config.pod_interfaces)

    @property
    def problem(self) -> str | None:
        """One sentence on why packets of unknown addresses do not wait though they must; None if they do, or need not."""
        if self._settings.hold_unknown is not HoldUnknown.ON or self.is_active:
            return None
        return (
            f'--hold-unknown is on, and no pod range is known: the Node "{self._settings.hostname}" names no podCIDRs; '
            "set --pod-cidrs or --pod-interfaces"
        )

    async def run(self, source: Source) -> None:
        """Follow the pod ranges of the Node until cancelled. Ranges of the settings come first, and never change."""
        while self._settings.hold_unknown is not HoldUnknown.OFF and not self._settings.pod_cidrs:
            if source.pod_ranges and source.pod_ranges != self.pod_ranges:
                self.pod_ranges = source.pod_ranges
                log.info("packets of unknown addresses in %s wait", listed(self.pod_ranges))
                self._ruleset.reconfigure(replace(self._ruleset.config, pod_ranges=self.pod_ranges))
                self._on_change()
            await asyncio.sleep(_CHECK_INTERVAL_S)
