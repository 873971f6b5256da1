"""The tier compiler: from policies of one tier that select the same endpoints to one tier program. Pure."""

from collections.abc import Callable, Sequence

from netpolq.enums import Action, DenyWith, Direction, Tier
from netpolq.policy.cidr_table import cidr_tree
from netpolq.policy.peers import Block, Peer, Selector
from netpolq.policy.port_table import Ports, TableBuilder
from netpolq.policy.tier_policy import TierPolicy
from netpolq.snapshot.ir import Rule, TierProgram


def compile_tier(direction: Direction, policies: Sequence[TierPolicy], number_of: Callable[[Selector], int]) -> TierProgram:
    """Compile one direction of policies of one tier, given in the order of their evaluation. `number_of`: the number of a selector."""
    tier = policies[0].tier
    rules: list[Rule] = []
    ports: list[Ports] = []
    of_any_peer: set[int] = set()
    of_peer: dict[Peer, list[int]] = {}
    for policy in policies:
        for position, rule in enumerate(policy.rules):
            rank = len(rules)
            is_rejected = rule.action is Action.DENY and policy.deny_with is DenyWith.REJECT
            rules.append(Rule(tier, policy.priority, policy.name, direction, position, rule.action, rule.name, is_rejected))
            ports.append(rule.ports)
            if rule.peers is None:
                of_any_peer.add(rank)
            for peer in rule.peers or ():
                ranks = of_peer.setdefault(peer, [])
                if not ranks or ranks[-1] != rank:
                    ranks.append(rank)
    of_selector = {peer: frozenset(ranks) for peer, ranks in of_peer.items() if not isinstance(peer, Block)}
    blocks: dict[int, dict[Block, list[int]]] = {4: {}, 6: {}}
    for peer, ranks in of_peer.items():
        if isinstance(peer, Block):
            blocks[peer.version][peer] = ranks
    ipv4, ipv6 = cidr_tree(blocks[4]), cidr_tree(blocks[6])
    rule_sets = [*of_selector.values(), *(ranks for tree in (ipv4, ipv6) if tree is not None for ranks in tree.nodes)]
    tables = TableBuilder(ports, rule_sets).tables
    return TierProgram(
        tier=tier,
        isolated_by=tuple(policy.name for policy in policies) if tier is Tier.NETWORK_POLICY else (),
        rules=tuple(rules),
        any_peer=tables(frozenset(of_any_peer)),
        selectors=tuple(sorted((number_of(selector), tables(ranks)) for selector, ranks in of_selector.items())),
        ipv4=None if ipv4 is None else ipv4.address_table(tables),
        ipv6=None if ipv6 is None else ipv6.address_table(tables),
    )


def selectors_of(policies: Sequence[TierPolicy]) -> tuple[Selector, ...]:
    """The peer selectors of policies, each once."""
    peers = (peer for policy in policies for rule in policy.rules for peer in rule.peers or ())
    return tuple(dict.fromkeys(peer for peer in peers if not isinstance(peer, Block)))


def port_names_of(policies: Sequence[TierPolicy]) -> tuple[str, ...]:
    """The port names of policies, each once."""
    ports = (port.port for policy in policies for rule in policy.rules for port in rule.ports or ())
    return tuple(dict.fromkeys(port for port in ports if isinstance(port, str)))
