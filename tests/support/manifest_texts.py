"""Manifests for the tests of the folder source, and short forms of the resulting updates."""

import json

from netpolq.model import Update

BAD_RULE = "{ports: [{port: 0}]}"


def namespace(name: str, **labels: str) -> str:
    """A Namespace as YAML."""
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {json.dumps(labels)}\n"


def policy(name: str, rule: str = "{}") -> str:
    """A NetworkPolicy as YAML: pods with label app=name, and one ingress rule."""
    return (
        f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n"
        f"spec:\n  podSelector: {{matchLabels: {{app: {name}}}}}\n  ingress: [{rule}]\n"
    )


def names(update: Update) -> list[str]:
    return [str(item.key) for item in update.upserted]


def complaints(update: Update) -> list[tuple[str, int, str]]:
    return [(rejection.origin, rejection.document, rejection.field) for rejection in update.rejections]
