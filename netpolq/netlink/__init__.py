"""Netlink: the nfnetlink message format, and transactions with nf_tables."""
