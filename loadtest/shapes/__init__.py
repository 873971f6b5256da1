"""The shapes of load, one module each."""
