"""The snapshot: compiled policy as bytes in a memfd, its builder in the supervisor, and its readers in the workers."""
