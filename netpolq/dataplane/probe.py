"""Probe of the kernel at start: the supported form of the queue rule, and the other features that the ruleset needs."""

import asyncio

from netpolq.dataplane.host_checks import require_supported_kernel
from netpolq.dataplane.kernel_errors import RulesetError, missing_privilege
from netpolq.dataplane.nft_program import MAX_DEADLINE_S, NftTimeoutError, run_nft
from netpolq.dataplane.queue_rule import try_queue_rule
from netpolq.dataplane.ruleset_names import TABLE
from netpolq.enums import Dataplane
from netpolq.errors import KernelError
from netpolq.netlink.nftables import dry_run

_NEEDED = f"""
add table inet {TABLE}-probe
add chain inet {TABLE}-probe needed
add rule inet {TABLE}-probe needed ct label 0 ct label set 1 fib saddr . iif oif 0
"""
"""Expressions that the ruleset needs besides the queue rule, and that some kernels lack.

Not in a base chain: the kernel removes its hook even after a check, and drops all packets that wait for a verdict in this network namespace
with it, those of a running agent too (nf_unregister_net_hook and nfqnl_nf_hook_drop).
"""


async def probe(wanted: Dataplane = Dataplane.AUTO) -> Dataplane:
    """The form of the queue rule to use: the wanted one, or with AUTO the first that this kernel supports. Changes nothing.

    Raises `PrivilegeError` without CAP_NET_ADMIN, `KernelError` without nft or if the kernel lacks a feature.
    """
    candidates = (Dataplane.NATIVE, Dataplane.COMPAT) if wanted is Dataplane.AUTO else (wanted,)
    require_supported_kernel()
    form = await asyncio.to_thread(_first_accepted, candidates)
    try:
        await run_nft("", MAX_DEADLINE_S)
        await run_nft(_NEEDED, MAX_DEADLINE_S, check_only=True)
    except NftTimeoutError as error:
        raise KernelError(str(error)) from error
    except RulesetError as error:
        raise KernelError(
            f"this kernel lacks connection labels (CONFIG_NF_CONNTRACK_LABELS) or the nftables module nft_ct or nft_fib_inet: {error}"
        ) from error
    if form is None:
        modules = {Dataplane.NATIVE: "nft_queue", Dataplane.COMPAT: "nft_compat and xt_NFQUEUE"}
        lacking = " or ".join(modules[candidate] for candidate in candidates)
        raise KernelError(
            f"this kernel cannot queue packets from nftables (dataplane {wanted}): load or build nf_tables, nfnetlink_queue and {lacking}"
        )
    return form


def _first_accepted(candidates: tuple[Dataplane, ...]) -> Dataplane | None:
    for form in candidates:
        try:
            dry_run(try_queue_rule(form))
        except PermissionError as error:
            raise missing_privilege() from error
        except OSError:
            continue
        return form
    return None
