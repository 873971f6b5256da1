"""Encoder of the queue rules, which queue packets for the workers and DNS messages for the DNS reader, in their two forms.

NATIVE is nftables' own `queue` expression. COMPAT is the xtables target NFQUEUE as an nftables rule, for kernels that were built
without that expression: both use the same code of the kernel. Source: linux/netfilter/nf_tables.h,
linux/netfilter/nf_tables_compat.h, linux/netfilter/xt_NFQUEUE.h.

Replacing a rule does not affect packets that wait in a queue, and no packet passes an empty chain.
"""

import struct

from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import ENQUEUE, ENQUEUE_NAMES, TABLE
from netpolq.enums import Dataplane
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import attribute, nested
from netpolq.netlink.nftables import (
    NFPROTO_IPV4,
    NFT_MSG_DELRULE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Request,
    name,
    number,
)

_TARGET_REVISION = 3
_TARGET_INFO = struct.Struct("=HHH2x")  # struct xt_NFQ_info_v3: queuenum, queues_total, flags; host order, padded to 8

# NFT_QUEUE_FLAG_* and NFQ_FLAG_* have the same values.
FLAG_BYPASS = 0x1
FLAG_CPU_FANOUT = 0x2


def replace_queue_rule(config: RulesetConfig) -> tuple[Request, ...]:
    """Requests for one transaction. Afterwards the table and the chain `enqueue` exist, and this is the chain's only rule.

    The same holds of the chain `enqueue_names` if there is a DNS queue.
    """
    workers = _replace((TABLE, ENQUEUE), config.form, config.queue_first, config.queue_count, queue_flags(config))
    if config.dns_queue is None:
        return workers
    return *workers, *_replace((TABLE, ENQUEUE_NAMES), config.form, config.dns_queue, 1, _bypass(config))


def try_queue_rule(form: Dataplane) -> tuple[Request, ...]:
    """Requests that a kernel refuses if it lacks a form; for a dry run, in tables that nothing else uses."""
    wanted = _replace((f"{TABLE}-probe", ENQUEUE), form, 0, 1, 0)
    if form is Dataplane.NATIVE:
        return wanted
    # A target's module is loaded on demand for the families of xtables, which inet is not one of (xt_prefix in x_tables.c).
    return (*(request._replace(family=NFPROTO_IPV4) for request in wanted), *wanted)


def queue_flags(config: RulesetConfig) -> int:
    """Bypass an unserved queue only when failing open; spread by CPU only where there is more than one queue."""
    fanout = FLAG_CPU_FANOUT if config.fanout and config.queue_count > 1 else 0
    return _bypass(config) | fanout


def _bypass(config: RulesetConfig) -> int:
    return FLAG_BYPASS if config.fail_open else 0


def _replace(place: tuple[str, str], form: Dataplane, first: int, count: int, flags: int) -> tuple[Request, ...]:
    """Requests that make a rule the only one of a chain. `place`: table and chain."""
    table, chain = place
    in_chain = (name(nfta.RULE_TABLE, table), name(nfta.RULE_CHAIN, chain))
    expressions = nested(nfta.RULE_EXPRESSIONS, nested(nfta.LIST_ELEM, *_expression(form, first, count, flags)))
    return (
        Request(NFT_MSG_NEWTABLE, (name(nfta.TABLE_NAME, table),), NLM_F_CREATE),
        Request(NFT_MSG_NEWCHAIN, (name(nfta.CHAIN_TABLE, table), name(nfta.CHAIN_NAME, chain)), NLM_F_CREATE),
        Request(NFT_MSG_DELRULE, in_chain),
        Request(NFT_MSG_NEWRULE, (*in_chain, expressions), NLM_F_CREATE | NLM_F_APPEND),
    )


def _expression(form: Dataplane, first: int, count: int, flags: int) -> tuple[bytes, bytes]:
    if form is Dataplane.NATIVE:
        return name(nfta.EXPR_NAME, "queue"), nested(
            nfta.EXPR_DATA,
            attribute(nfta.QUEUE_NUM, struct.pack("!H", first)),
            attribute(nfta.QUEUE_TOTAL, struct.pack("!H", count)),
            attribute(nfta.QUEUE_FLAGS, struct.pack("!H", flags)),
        )
    return name(nfta.EXPR_NAME, "target"), nested(
        nfta.EXPR_DATA,
        name(nfta.TARGET_NAME, "NFQUEUE"),
        number(nfta.TARGET_REV, _TARGET_REVISION),
        attribute(nfta.TARGET_INFO, _TARGET_INFO.pack(first, count, flags)),
    )
