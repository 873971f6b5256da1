"""Writer of `status.conditions` of cluster-wide policies, in one agent of the cluster. Imported only with `--policy-status`."""
