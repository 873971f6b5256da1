"""The waiting process: holds packets until their addresses are known, and evaluates them then, or until their time is over."""
