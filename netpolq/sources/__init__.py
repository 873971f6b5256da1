"""Sources of objects: the Kubernetes API, a folder of manifests, and the decoder of both."""
