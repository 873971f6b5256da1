"""The folder source: policies, pods, namespaces and nodes from a directory of manifests."""
