"""Flows: what connected to what, with which verdict, and why; their records, windows, filters and text."""
