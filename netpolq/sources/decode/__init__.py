"""Decoding: from API objects as JSON or YAML values to the model, with every field checked as the API server checks it."""
