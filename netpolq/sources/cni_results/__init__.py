"""Addresses of new pods of this node, from the results of CNI plug-ins that the container runtime keeps in a folder."""
