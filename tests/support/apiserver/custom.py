"""CRDs of the test API server: which versions of which kinds it serves, and their discovery documents.

Source: `v1.APIGroup` and `v1.APIResourceList`. A path below `/apis` that is not served has plain text as its answer.
"""

from collections.abc import Iterator

from aiohttp import web

from tests.support.apiserver.resources import DISCOVERY, GROUP, Resource

NOT_FOUND = "404 page not found\n"


class CustomResources:
    """The served versions of the kinds with a CRD, by their stored version. Without an entry there is no CRD."""

    def __init__(self) -> None:
        self._versions: dict[Resource, tuple[str, ...]] = {}

    def serve(self, resource: Resource, *versions: str) -> None:
        """Serve a kind in these versions only, without any not at all."""
        self._versions.pop(resource, None)
        if versions:
            self._versions[resource] = versions

    def find(self, path: str) -> Resource | None:
        """The resource that a path names: a collection, or the discovery documents also where they do not exist."""
        for resource, version in self._served():
            if path == f"/apis/{GROUP}/{version}/{resource.plural}":
                return resource
        group, _, rest = path.partition(GROUP)
        return DISCOVERY if group == "/apis/" and rest.count("/") <= 1 else None

    def answer(self, path: str) -> web.Response:
        """A discovery document, or 404 in plain text."""
        version = path.removeprefix(f"/apis/{GROUP}").removeprefix("/")
        versions = list(dict.fromkeys(version for _resource, version in self._served()))
        if not version and versions:
            described = [{"groupVersion": f"{GROUP}/{each}", "version": each} for each in versions]
            return web.json_response(
                {"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": described, "preferredVersion": described[0]}
            )
        if version in versions:
            names = [resource for resource, each in self._served() if each == version]
            resources = [
                {"name": name, "singularName": "", "namespaced": False, "kind": resource.kind, "verbs": ["list", "watch"]}
                for resource in names
                for name in (resource.plural, f"{resource.plural}/status")
            ]
            document = {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{version}",
                "resources": resources,
            }
            return web.json_response(document)
        return web.Response(status=404, text=NOT_FOUND)

    def _served(self) -> Iterator[tuple[Resource, str]]:
        for resource, versions in self._versions.items():
            for version in versions:
                yield resource, version
