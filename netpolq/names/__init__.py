"""Learned names: which addresses DNS answers have given for the domain names of policies, and which DNS servers are trusted. Pure."""

DNS_PORT = 53
"""Source: RFC 1035 section 4.2."""
