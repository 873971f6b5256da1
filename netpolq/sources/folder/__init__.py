"""The folder source: policies, pods and namespaces from a directory of manifests."""
