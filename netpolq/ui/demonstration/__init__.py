"""A made-up shop of three nodes and five namespaces: its objects (`objects.yaml`) and its connections. Nothing of it exists."""
