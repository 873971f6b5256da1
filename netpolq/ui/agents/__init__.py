"""Where the data comes from: agents over HTTP, agents through the API server, or a demonstration. Each is a `Source`."""
