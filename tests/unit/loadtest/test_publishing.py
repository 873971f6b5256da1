"""The control plane of the benchmarks compiles, publishes, and tells the sizes of sections."""

from loadtest.cluster_policies import cluster
from loadtest.publishing import ControlPlane, update_of
from netpolq.snapshot.layout import Section


def test_an_event_is_compiled_and_published_and_the_sections_make_up_the_snapshot() -> None:
    control = ControlPlane(is_local=lambda pod: pod.node_name == "node-local")

    compiled_s, published_s = control.event(update_of(cluster(300, 20)))
    sections = control.section_bytes()

    assert compiled_s > 0
    assert published_s > 0
    assert sections[Section.ADDRESSES] > 300 * 16
    assert sections[Section.PROGRAMS] > 0
    assert sum(sections.values()) < control.publish() < sum(sections.values()) + 1024, "what remains is the header"
