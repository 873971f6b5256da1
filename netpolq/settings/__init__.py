"""The settings of the agent: flags, environment and file become one frozen `Settings`. The only home of defaults."""

from netpolq.settings.resolve import Settings, resolve

__all__ = ["Settings", "resolve"]
