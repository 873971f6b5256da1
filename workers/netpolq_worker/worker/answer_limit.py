"""The limit of answers to denied packets: a rate for each client, and one for all of them. Pure: time is an argument.

Each rate is a time at which its tokens would be full again, so a client whose time has passed needs no entry. An entry is made with an
answer only, and for at most a second: so the limit of all answers also bounds the table.
"""

_S = 1_000_000_000
ANSWERS_PER_S = 200
BURST = 50
CLIENT_ANSWERS_PER_S = 20
CLIENT_BURST = 20

_INTERVAL_NS = _S // ANSWERS_PER_S
_TOLERANCE_NS = (BURST - 1) * _INTERVAL_NS
_CLIENT_INTERVAL_NS = _S // CLIENT_ANSWERS_PER_S
_CLIENT_TOLERANCE_NS = (CLIENT_BURST - 1) * _CLIENT_INTERVAL_NS
MAX_CLIENTS = 1024
"""More than have an entry that counts: of `BURST` answers and those of a second."""


class AnswerLimit:
    """Decides which denied packets are answered."""

    def __init__(self) -> None:
        self._full_ns = 0
        self._clients: dict[bytes, int] = {}

    def take(self, client: bytes, now_ns: int) -> bool:
        """Whether a packet of a client may be answered now. `client`: its address; `now_ns`: monotonic."""
        client_full_ns = self._clients.get(client, 0)
        if client_full_ns > now_ns + _CLIENT_TOLERANCE_NS or self._full_ns > now_ns + _TOLERANCE_NS:
            return False  # the usual case in a flood, so it comes first and calls nothing
        if len(self._clients) >= MAX_CLIENTS:
            self._clients = {one: full for one, full in self._clients.items() if full > now_ns}
        self._clients[client] = max(client_full_ns, now_ns) + _CLIENT_INTERVAL_NS
        self._full_ns = max(self._full_ns, now_ns) + _INTERVAL_NS
        return True

    def __len__(self) -> int:
        return len(self._clients)
