"""Files of CNI results as libcni writes them."""

import base64
import json

from pathlib import Path


def result_document(
    pod: str, uid: str, *addresses: str, sandbox: str = "s1", network: str = "net", if_name: str = "eth0"
) -> dict[str, object]:
    """The document of one attachment of a pod named namespace/name. `addresses`: without prefix length.

    Source: a file of containerd 1.7 with the bridge plug-in, with other names and addresses.
    """
    namespace, name = pod.split("/")
    return {
        "kind": "cniCacheV1",
        "containerId": sandbox,
        "config": base64.b64encode(b'{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}').decode(),
        "ifName": if_name,
        "networkName": network,
        "netns": "/var/run/netns/cni-1",
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", namespace],
            ["K8S_POD_NAME", name],
            ["K8S_POD_INFRA_CONTAINER_ID", sandbox],
            ["K8S_POD_UID", uid],
        ],
        "capabilityArgs": {"io.kubernetes.cri.pod-annotations": {"token": "secret"}, "portMappings": []},
        "result": {
            "cniVersion": "1.0.0",
            "dns": {},
            "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": if_name, "sandbox": "/var/run/netns/cni-1"}],
            "ips": [{"address": f"{text}/{64 if ':' in text else 24}", "gateway": text, "interface": 2} for text in addresses],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }


def loopback_document(pod: str, uid: str, *, sandbox: str = "s1") -> dict[str, object]:
    """The document of the loopback interface, which the runtime attaches first."""
    return result_document(pod, uid, "127.0.0.1", "::1", sandbox=sandbox, network="cni-loopback", if_name="lo")


def write_result(folder: Path, document: dict[str, object]) -> Path:
    """Write a file as libcni does: in place, with mode 0600, under the name of its network, sandbox and interface."""
    path = folder / f"{document['networkName']}-{document['containerId']}-{document['ifName']}"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
