"""The delta writer: collects what changes of the compiled policy until it is taken as one `CompiledDelta`."""

from netpolq.addresses import AddressKey
from netpolq.snapshot.ir import CompiledDelta, Endpoint, Identity, Program, TierProgram


class DeltaWriter:
    """New values by number and by address; see `CompiledDelta`. A later value of the same key replaces the earlier one."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.identities: dict[int, Identity | None] = {}
        self.addresses: dict[AddressKey, int] = {}
        self.tiers: dict[int, TierProgram | None] = {}
        self.programs: dict[int, Program | None] = {}
        self.endpoints: dict[AddressKey, Endpoint | None] = {}
        self.shadows: dict[AddressKey, Endpoint | None] = {}
        self.pod_names: dict[AddressKey, str] = {}

    def take(self) -> CompiledDelta:
        """Return what was written since the last call."""
        delta = CompiledDelta(
            identities=self.identities,
            addresses=self.addresses,
            tiers=self.tiers,
            programs=self.programs,
            endpoints=self.endpoints,
            shadows=self.shadows,
            pod_names=self.pod_names,
        )
        self._clear()  # with new dictionaries: the delta keeps these
        return delta
