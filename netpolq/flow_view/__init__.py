"""What `netpolq flows` does: reads flows of one agent or of those of a cluster, merges their windows, and shows them."""
