"""The testbed: nodes and pods as network namespaces, an agent in them, its manifests, and probes.

The tests and the load test both use it.
"""
