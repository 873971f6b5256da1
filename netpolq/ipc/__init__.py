"""Communication between the processes of the agent: message channel, takeover protocol, run directory, shared counters."""
