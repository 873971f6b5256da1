"""Former names of metrics, exposed beside the present names for one version, which leaves time to change rules and dashboards.

There are two caches, each with one name: the *flow cache* of each worker, and the *verdict cache* in the kernel. The metrics of the
kernel's begin with `netpolq_kernel_verdict_cache`, because `netpolq_verdict_cache` was the prefix of the workers' until 0.1.0.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric

FORMER_NAMES: Mapping[str, str] = {
    "netpolq_flow_cache_hits": "netpolq_verdict_cache_hits",
    "netpolq_flow_cache_misses": "netpolq_verdict_cache_misses",
    **{
        f"netpolq_kernel_verdict_cache_{part}": f"netpolq_kernel_cache_{part}"
        for part in ("entries", "size", "hits", "misses", "remembered", "forgotten", "flushes", "refused_hints")
    },
}
"""Former by present names, without the `_total` of counters."""


def with_former_names(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Each metric, and after it the same samples under its former name. HELP gives the present name."""
    for metric in metrics:
        yield metric
        if (former := FORMER_NAMES.get(metric.name)) is not None:
            present = f"{metric.name}_total" if metric.type == "counter" else metric.name
            copy = Metric(former, f"Deprecated: use {present}. The next version does not have this name", metric.type)
            copy.samples = [sample._replace(name=sample.name.replace(metric.name, former, 1)) for sample in metric.samples]
            yield copy
