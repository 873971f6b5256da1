"""The control plane benchmark measures a working control plane."""

from loadtest.controlplane import LOCAL_PODS, measure


def test_a_small_cluster_is_measured_in_a_process_of_its_own() -> None:
    cost = measure(pods=LOCAL_PODS * 2, policies=60, local_policies=20, events=30)
    assert (cost.pods, cost.policies, cost.local_policies) == (LOCAL_PODS * 2, 60, 20)
    assert 0 < cost.pod_event.median_ms <= cost.pod_event.p99_ms <= cost.pod_event.max_ms
    assert cost.pod_event_sealed.median_ms > cost.pod_event.median_ms
    assert cost.policy_event_sealed.median_ms > cost.policy_event.median_ms
    assert cost.snapshot_bytes > LOCAL_PODS * 2 * 2 * 20, "every pod has two entries"
    assert cost.rss_bytes_per_pod > 0
