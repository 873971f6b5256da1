"""The hold: a table of its own that drops the traffic of all pods of a node until the agent's rules are in force.

`ranges` reads pod ranges, `cni` finds them on the node, `ruleset` renders the table, `command` is `netpolq hold`. The package imports
nothing of the agent and little of the standard library, so that the command takes milliseconds at boot.
"""
