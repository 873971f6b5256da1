"""The reads of `table_state` with errors for the operator: each function blocks and may raise `PrivilegeError` or `RulesetError`."""

from netpolq.dataplane import table_state
from netpolq.dataplane.kernel_errors import explained

read_state = explained()(table_state.read_state)
read_generation = explained()(table_state.read_generation)
read_chains = explained()(table_state.read_chains)
read_chain_uses = explained()(table_state.read_chain_uses)
read_counters = explained()(table_state.read_counters)
read_interval_bounds = explained()(table_state.read_interval_bounds)
