"""Decoder of API objects: from JSON or YAML values to the model, with the field checks of the API server."""
