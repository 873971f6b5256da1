"""The settings of the agent: flags, environment and file, merged into one frozen `Settings`. All defaults are defined here."""

from netpolq.ipc.agent_settings import Settings
from netpolq.settings.resolve import resolve

__all__ = ["Settings", "resolve"]
