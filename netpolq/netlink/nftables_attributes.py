"""Numbers of the attributes of nf_tables messages (`NFTA_*`), by their names in the kernel's header without the prefix.

Attributes of different objects may have the same number. The name of the table is attribute `TABLE` in the messages about every kind of
object. Source: linux/netfilter/nf_tables.h, linux/netfilter/nf_tables_compat.h (TARGET_*, MATCH_*).
"""

TABLE = 1
TABLE_NAME = 1
TABLE_FLAGS = 2
TABLE_HANDLE = 4
TABLE_OWNER = 7

CHAIN_TABLE = 1
CHAIN_HANDLE = 2
CHAIN_NAME = 3
CHAIN_HOOK = 4
CHAIN_POLICY = 5
CHAIN_USE = 6
CHAIN_TYPE = 7
CHAIN_FLAGS = 10

RULE_TABLE = 1
RULE_CHAIN = 2
RULE_HANDLE = 3
RULE_EXPRESSIONS = 4

LIST_ELEM = 1

EXPR_NAME = 1
EXPR_DATA = 2

SET_ELEM_LIST_TABLE = 1
SET_ELEM_LIST_SET = 2
SET_ELEM_LIST_ELEMENTS = 3

SET_ELEM_KEY = 1
SET_ELEM_DATA = 2
SET_ELEM_FLAGS = 3
SET_ELEM_TIMEOUT = 4

SET_NAME = 2
SET_FLAGS = 3
SET_HANDLE = 16

DATA_VALUE = 1
DATA_VERDICT = 2

VERDICT_CODE = 1

OBJ_NAME = 2
OBJ_TYPE = 3
OBJ_DATA = 4
OBJ_HANDLE = 6

COUNTER_PACKETS = 2

GEN_ID = 1
GEN_PROC_PID = 2
GEN_PROC_NAME = 3

QUEUE_NUM = 1
QUEUE_TOTAL = 2
QUEUE_FLAGS = 3

TARGET_NAME = 1
TARGET_REV = 2
TARGET_INFO = 3

MATCH_NAME = 1
MATCH_INFO = 3

IMMEDIATE_DREG = 1
IMMEDIATE_DATA = 2

CT_KEY = 2
CT_SREG = 4
