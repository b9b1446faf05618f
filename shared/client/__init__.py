"""What a Python program talks to finestream with: `connect` in an event loop, `Blocking` without one."""

from shared.client.blocking import Blocking
from shared.client.calls import Client, connect
from shared.settings import ClientSettings

__all__ = ["Blocking", "Client", "ClientSettings", "connect"]
