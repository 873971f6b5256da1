"""The matching of domain names with the patterns of `domainNames` peers.

Source: NPEP-133 and the type DomainName of `policy.networking.k8s.io`: a pattern is a name, or `*.` and a name. The wildcard stands for one
or more whole labels, so `*.example.com` matches `a.b.example.com` and not `example.com`.
"""

from collections.abc import Iterator

from netpolq.model import domain_name

WILDCARD = "*."


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches a name. Case and a dot at the end of either do not matter."""
    pattern, name = domain_name(pattern), domain_name(name)
    if not pattern.startswith(WILDCARD):
        return name == pattern
    suffix = pattern[1:]
    return name.endswith(suffix) and name != suffix


def patterns_of(name: str) -> Iterator[str]:
    """Yield every pattern that matches a name, in the form of `domain_name`: as many as the name has labels.

    A name is looked up by these in the patterns in use, and so is never compared with each of them.
    """
    yield name
    rest = name
    while rest := rest.partition(".")[2]:
        yield WILDCARD + rest
