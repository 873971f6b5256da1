"""Binary layout of a snapshot: a header, a section table, and sections that are read in place.

All integers are in host byte order (a snapshot never leaves its host); `BYTE_ORDER_MARK` detects another one. Offsets in the
section table are bytes from the start; every section starts on eight bytes. "Word" means an unsigned 32-bit integer; offsets inside
the WORDS section count words from its start, and word 0 is reserved so that offset 0 can mean "none".

    header      magic 8s · layout u32 · byte-order mark u32 · snapshot version u64 · total bytes u64 · created (Unix ns) u64 ·
                section count u32 · crc32 of header and section table (this field taken as 0) u32
    section     offset u64 · length in bytes u64 · crc32 u32 · entries u32

    ADDRESSES   hash cells: key 16s · identity u32 (0: empty cell)
    ENDPOINTS   hash cells: key 16s · egress program, ingress program << 32 u64 (word offsets, 0: not isolated; both 0: empty cell)
    NODE_OF     hash cells: key 16s · word offset of [n, n × 4 words of address bytes] u32 (0: empty cell)
    POD_NAMES   hash cells: key 16s · offset in NAMES + 1 u32 (0: empty cell); no used cell unless packets are logged
    IDENTITIES  one word each: word offset of [n, n × selector, m, m × (name (string), protocol << 16 | port)]; 0: not in use
    WORDS       what identities point to, and programs with what they point to:
      program     n, n × tier
      tier        tier number, isolated_by, any peer table, IPv4 table, IPv6 table, n, rules, n × selector (sorted), n × port table
      isolated_by n, n × policy (string)
      rules       for each rank: policy (string), tier << 16 | direction << 8 | action, index
      port table  rank of the rule without ports + 1, end of TCP, UDP, SCTP ranges (in ranges), number of names,
                  ranges × (low << 16 | high) sorted per protocol, ranges × rank, names × (name (string), protocol, rank)
      IPv4 table  n, n × first address of a piece (sorted), 2 n × port table (0: none) of the nodes of a tree: those of the pieces are
                  the second half, the parent of node i is i // 2, node 0 is not used
      IPv6 table  the same with addresses of four words, most significant first
    STRINGS     entries + 1 words of byte offsets from the end of these words, then UTF-8
    NAMES       names of pods: length u16, UTF-8

A rank is the index of a rule in the order of precedence within its tier of its program. `SnapshotReader.rule` takes the word offset of a
rule.

Hash tables use open addressing with linear probing from cell `crc32(key) * entries >> 32`, without a wrap: behind the cells that keys
start from there are as many more as the last ones need, and the last cell of all is always empty.
"""

import struct

from enum import IntEnum

MAGIC = b"NETPOLQ\x00"
LAYOUT_VERSION = 4
BYTE_ORDER_MARK = 0x01020304

HEADER = struct.Struct("=8sIIQQQII")
SECTION = struct.Struct("=QQII")

ADDRESS_CELL = struct.Struct("=16sI")
ENDPOINT_CELL = struct.Struct("=16sQ")
NODE_OF_CELL = struct.Struct("=16sI")
POD_NAME_CELL = struct.Struct("=16sI")
RULE_WORDS = 3
NAME_LENGTH = struct.Struct("=H")

MAX_IMAGE_BYTES = 1 << 31
"""Larger snapshots are rejected: word offsets and the probing arithmetic stay far from their limits."""


class Section(IntEnum):
    """Sections in the order of the section table."""

    ADDRESSES = 0
    ENDPOINTS = 1
    NODE_OF = 2
    POD_NAMES = 3
    IDENTITIES = 4
    WORDS = 5
    STRINGS = 6
    NAMES = 7


PREFIX_BYTES = HEADER.size + len(Section) * SECTION.size
