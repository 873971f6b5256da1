"""The load test: what the agent costs, against references measured in the same run."""
