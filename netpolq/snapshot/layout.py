"""Binary layout of a snapshot: a header, a section table, and sections that are read in place.

All integers are in host byte order (a snapshot never leaves its host); `BYTE_ORDER_MARK` detects another one. Offsets in the
section table are bytes from the start; every section starts on eight bytes. "Word" means an unsigned 32-bit integer; offsets inside
a section of words count words from its start, and word 0 is reserved so that offset 0 can mean "none".

    header      magic 8s · layout u32 · byte-order mark u32 · snapshot version u64 · total bytes u64 · created (Unix ns) u64 ·
                section count u32 · crc32 of header and section table (this field taken as 0) u32
    section     offset u64 · length in bytes u64 · crc32 u32 · entries u32

    ADDRESSES   hash cells: key 16s · number of an identity u32 (0: empty cell)
    ENDPOINTS   hash cells: key 16s · egress program, ingress program << 32 u64 (offsets in PROGRAMS, 0: none; both 0: empty cell)
    SHADOWS     as ENDPOINTS, for the addresses that a policy in audit selects: the programs with all policies, also those in audit
    NODE_OF     hash cells: key 16s · offset in PROGRAMS of [n, n × 4 words of address bytes] u32 (0: empty cell)
    POD_NAMES   hash cells: key 16s · offset in NAMES + 1 u32 (0: empty cell); no used cell unless packets are logged
    IDENTITIES  one word each: offset in CONTENTS of the identity with this number; 0: not in use
    CONTENTS    words: [n, n × selector, m, m × (name (string), protocol << 16 | port)]
    PROGRAMS    words:
      program       `ProgramWord`, then n × offset of a tier program, in the order of the tiers
      tier program  `TierWord`, then n × selector (sorted), n × tables. Offsets in it count from its own first word, so it can be moved.
      isolated_by   n, n × policy (string)
      rules         n × decision, in order of precedence; the index of a rule is its rank
      tables        a port table, or `TABLE_LIST` + offset of [n, n × port table]; 0: none
      port table    `PortTableWord`, ranges × (low << 16 | high) sorted per protocol, ranges × rank, names × `PortNameWord`
      IPv4 table    n, n × first address of a piece (sorted), 2 n × tables (0: none) of the nodes of a tree: those of the pieces are
                    the second half, the parent of node i is i // 2, node 0 is not used
      IPv6 table    the same with addresses of four words, most significant first
    DECISIONS   `DecisionWord`s, one record each. A decision keeps its number while it is in use. Record 0 is reserved for "no policy
                decides"; its FLAGS are `REJECTED` if any other record has that bit.
    STRINGS     entries + 1 words of byte offsets from the end of these words, then UTF-8
    NAMES       names of pods: length u16, UTF-8

Hash tables use open addressing with linear probing from cell `crc32(key) * entries >> 32`, without a wrap: behind the cells that keys
start from there are as many more as the last ones need, and the last cell of all is always empty.
"""

import struct

from enum import IntEnum

MAGIC = b"NETPOLQ\x00"
LAYOUT_VERSION = 8
BYTE_ORDER_MARK = 0x01020304

HEADER = struct.Struct("=8sIIQQQII")
SECTION = struct.Struct("=QQII")

ADDRESS_CELL = struct.Struct("=16sI")
ENDPOINT_CELL = struct.Struct("=16sQ")
NODE_OF_CELL = struct.Struct("=16sI")
POD_NAME_CELL = struct.Struct("=16sI")
NAME_LENGTH = struct.Struct("=H")

MAX_SNAPSHOT_BYTES = 1 << 31
"""Larger snapshots are rejected: word offsets and the probing arithmetic stay far from their limits."""

NO_DECISION = 0
"""Number of the decision of a direction that no policy decides."""

ISOLATION = 0xFF
"""In place of a tier in a decision: no rule allowed the flow, and its POLICY is the offset of a program, whose tiers name the policies."""


REJECTED = 1 << 24
"""Bit in the FLAGS of a decision that denies: the sender of the packet gets an answer."""

TABLE_LIST = 1 << 31
"""Added to the offset of a list of port tables, to tell it from that of a single one."""


class Section(IntEnum):
    """Sections in the order of the section table."""

    ADDRESSES = 0
    ENDPOINTS = 1
    SHADOWS = 2
    NODE_OF = 3
    POD_NAMES = 4
    IDENTITIES = 5
    CONTENTS = 6
    PROGRAMS = 7
    DECISIONS = 8
    STRINGS = 9
    NAMES = 10


class ProgramWord(IntEnum):
    """Words of a program. DENIAL: the decision if the endpoint is isolated and no rule decided. COUNT: tier programs that follow."""

    DENIAL = 0
    COUNT = 1
    FIRST_TIER = 2


class TierWord(IntEnum):
    """Words of a tier program. TIER: `netpolq.enums.Tier`. ANY_PEER: tables. SELECTOR_COUNT: selectors that follow."""

    TIER = 0
    ISOLATED_BY = 1
    RULES = 2
    ANY_PEER = 3
    IPV4 = 4
    IPV6 = 5
    SELECTOR_COUNT = 6
    FIRST_SELECTOR = 7


class PortTableWord(IntEnum):
    """Words of a port table. EVERY: rank of the rule without ports + 1, 0: none. The next three: where the ranges of a protocol end."""

    EVERY = 0
    TCP_END = 1
    UDP_END = 2
    SCTP_END = 3
    NAME_COUNT = 4
    FIRST_RANGE = 5


class PortNameWord(IntEnum):
    """Words of a named port in a port table. NAME: a string."""

    NAME = 0
    PROTOCOL = 1
    RANK = 2


class DecisionWord(IntEnum):
    """Words of a decision. FLAGS: `REJECTED` or 0 | tier << 16 | direction << 8 | action. POLICY: its name (string).
    POSITION, RULE_NAME (string): of the rule. PRIORITY: of the policy.
    """

    FLAGS = 0
    POLICY = 1
    POSITION = 2
    PRIORITY = 3
    RULE_NAME = 4


PREFIX_BYTES = HEADER.size + len(Section) * SECTION.size
