"""Whether packets of unknown addresses wait: where addresses of this node's pods lie, and the rules that follow from that.

The pod ranges of the Node may become known while the agent runs. Then the ruleset is installed once more, with them.
"""

import asyncio
import logging

from collections.abc import Callable
from dataclasses import replace

from netpolq.dataplane.install import Ruleset
from netpolq.enums import HoldUnknown
from netpolq.hold.ranges import listed
from netpolq.settings import Settings
from netpolq.sources.source import Source

_CHECK_INTERVAL_S = 1.0

log = logging.getLogger("unknown-addresses")


class UnknownAddresses:
    """Keeps the ruleset's pod ranges those of the settings or of the Node. `on_change`: called when the ruleset must be installed.

    `problem`: one sentence on why packets of unknown addresses do not wait though they must; None if they do, or need not.
    """

    def __init__(self, settings: Settings, ruleset: Ruleset, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._ruleset = ruleset
        self._on_change = on_change

    @property
    def problem(self) -> str | None:
        config = self._ruleset.config
        if self._settings.hold_unknown is not HoldUnknown.ON or config.pod_ranges or config.pod_interfaces:
            return None
        return (
            f'--hold-unknown is on, and no pod range is known: the Node "{self._settings.hostname}" names no podCIDRs; '
            "set --pod-cidrs or --pod-interfaces"
        )

    async def run(self, source: Source) -> None:
        """Follow the pod ranges of the Node until cancelled. Ranges of the settings come first, and never change."""
        while self._settings.hold_unknown is not HoldUnknown.OFF and not self._settings.pod_cidrs:
            found, config = source.pod_ranges, self._ruleset.config
            if found and found != config.pod_ranges:
                log.info("packets of unknown addresses in %s wait", listed(found))
                self._ruleset.reconfigure(replace(config, pod_ranges=found))
                self._on_change()
            await asyncio.sleep(_CHECK_INTERVAL_S)
