"""The cluster of the demo: its node, its pods, and two hosts outside of it."""

import yaml

from loadtest.testbed import manifests
from loadtest.testbed.box import CHECKOUT, Host

CONFIG = CHECKOUT / "config/demo"

_SERVED = (("TCP", 443), ("UDP", 443))
NODE = Host(name="node", addresses=("192.0.2.10", "2001:db8::10"), serves=_SERVED)
_OUTSIDE = Host(name="outside", addresses=("198.51.100.7", "2001:db8:ffff::7"), serves=_SERVED)
# The addresses of the instance metadata service of the large clouds.
_METADATA = Host(name="metadata", addresses=("169.254.169.254", "fd00:ec2::254"), serves=(("TCP", 80), ("UDP", 80)))


def hosts() -> list[Host]:
    """The pods of config/demo/cluster.yaml, and the hosts outside."""
    bodies: list[manifests.Body] = list(yaml.safe_load_all((CONFIG / "cluster.yaml").read_text(encoding="utf-8")))
    return [*(manifests.host_of(body) for body in bodies if body["kind"] == "Pod"), _OUTSIDE, _METADATA]
