"""Histograms of the steps from a change to its enforcement."""

from prometheus_client import CollectorRegistry, Histogram

_STEP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Timings:
    """One histogram for each step, in seconds, registered in the given registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str, buckets: tuple[float, ...] = _STEP_BUCKETS_S) -> Histogram:
            return Histogram(name, documentation, buckets=buckets, registry=registry)

        self.programming = histogram(
            "netpolq_policy_programming_seconds",
            "Seconds from the notice of a change until every worker and the kernel enforce it",
            _LATENCY_BUCKETS_S,
        )
        self.compile = histogram("netpolq_compile_seconds", "Seconds to compile what changed, for each publish")
        self.publish = histogram("netpolq_publish_seconds", "Seconds to copy a snapshot and hand it on")
        self.names = histogram(
            "netpolq_dns_answer_seconds", "Seconds until new connections meet the new addresses of a DNS answer"
        )
        self.strict_pass = histogram(
            "netpolq_strict_pass_seconds", "Seconds to go through established connections after a change"
        )
