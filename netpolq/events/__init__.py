"""Denied connections of this node's pods as Events of the API, in series with limits. Off without `--events`."""
