"""The Kubernetes source: policies, pods and namespaces from the API server, by list and watch."""
