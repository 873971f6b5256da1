"""The JSON API: a module for each resource. Handlers find what they need in `Ui`."""
