"""The testbed: nodes and pods as network namespaces, an agent in them, probes, and the manifests they enforce.

The tests and the load test both use it.
"""
