"""Dataplane: the nftables tables of the agent, the connections that the kernel tracks, and checks of the node."""
