"""The settings of the agent: flags, environment and file, merged into one frozen `Settings`. All defaults are defined here."""

from netpolq.settings.resolve import Settings, resolve

__all__ = ["Settings", "resolve"]
