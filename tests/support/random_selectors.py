"""Small pools of labels, ports and blocks, and random metadata and selectors of them: selectors match, blocks overlap and names collide."""

import random

Body = dict[str, object]

LABELS = {"app": ("web", "db", ""), "tier": ("front", "back"), "env": ("prod", "test")}
PORT_NAMES = ("http", "dns", "metrics")
PORTS = (1, 53, 80, 81, 443, 8080, 65535)
TRANSPORTS = {"TCP": 6, "UDP": 17, "SCTP": 132}
V4_BLOCKS = (
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "10.0.0.3/32",
    "10.0.0.64/26",
    "192.0.2.0/24",
)
V6_BLOCKS = ("::/0", "fd00::/16", "fd00::/64", "fd00::/125", "fd00::4/126", "fd00::3/128", "2001:db8::/32")


def object_metadata(name: str, labels: dict[str, str], namespace: str | None = None) -> Body:
    """The metadata of an object."""
    metadata: Body = {"name": name, "labels": labels}
    return metadata if namespace is None else {**metadata, "namespace": namespace}


def annotated(metadata: Body) -> Body:
    """The metadata of a policy or a namespace, perhaps with what it says about answers to denied packets, and about audit; the same for
    equal ones.
    """
    rng = random.Random(repr(metadata))
    said = {"netpolq.io/deny-with": rng.choice(("drop", "reject"))} if rng.random() < 0.3 else {}
    if rng.random() < 0.2:
        said["policy.netpolq.io/enforcement"] = rng.choice(("audit", "enforce"))
    return {**metadata, "annotations": said}


def random_labels(rng: random.Random) -> dict[str, str]:
    """Some of the labels of the pool, each with a random value."""
    return {key: rng.choice(values) for key, values in LABELS.items() if rng.random() < 0.6}


def random_selector(rng: random.Random, keys: dict[str, tuple[str, ...]]) -> Body:
    """A label selector of keys with their possible values; it may be empty."""
    selector: Body = {}
    if rng.random() < 0.4:
        key = rng.choice(tuple(keys))
        selector["matchLabels"] = {key: rng.choice(keys[key])}
    if rng.random() < 0.4:
        selector["matchExpressions"] = [_requirement(rng, keys) for _ in range(rng.randint(1, 2))]
    return selector


def _requirement(rng: random.Random, keys: dict[str, tuple[str, ...]]) -> Body:
    key = rng.choice(tuple(keys))
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist"))
    requirement: Body = {"key": key, "operator": operator}
    if operator in {"In", "NotIn"}:
        requirement["values"] = rng.sample(keys[key], rng.randint(1, min(2, len(keys[key]))))
    return requirement


def random_namespace_selector(rng: random.Random) -> Body:
    """A label selector of namespaces, by their labels or names."""
    return random_selector(rng, {**LABELS, "kubernetes.io/metadata.name": ("ns0", "ns1", "ns2", "ns3")})
