"""The takeover of a network namespace by another agent, and the lock that the serving agent holds.

`protocol` has the theory, the states and the transition tables, `messages` the messages, events and effects, `machines` the two state
machines: all of them pure. `connection` does the socket I/O, `key` keeps the key file.
"""

from netpolq.ipc.takeover.connection import acquire, queues_beside, running_agent

__all__ = ["acquire", "queues_beside", "running_agent"]
