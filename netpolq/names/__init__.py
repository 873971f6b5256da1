"""Learned names: which addresses DNS answers have given for the domain names of policies, and which DNS servers are trusted. Pure."""
