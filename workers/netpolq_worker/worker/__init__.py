"""The worker process: packets of one queue in, verdicts out."""
