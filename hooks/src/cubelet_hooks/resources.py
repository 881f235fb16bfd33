"""Kubernetes objects of a cube's own: what a CustomResourceDefinition adds to the API.

    class Quota(Cube):
        kind = "quota"
        watches = (Resource("Budget", "example.com/v1", "budgets"),)

        def units(self, change, view):
            return [("budget", change.key)] if change.kind == "Budget" else ()

        def plan(self, unit, view):
            budget = view.custom("Budget").get(unit[1])
            if budget is None:
                return  # it was deleted: nothing is wanted any more
            for pod in view.pods_in(budget.namespace):
                for address in pod.ips:
                    yield Entry("budgets", Key(address), Budget(int(budget.spec["bytes"])))

(``units`` must then also return those budgets' units when a pod changes.) Whoever installs the cube
applies the CustomResourceDefinition, with the schema that the API server validates by, and lets the
agents' account get, list and watch the kind. As long as it is missing, the agent reports a problem
and everything else works. A folder of manifests has no schemas: objects are read unvalidated, so
``plan`` has to expect values that a schema would have refused.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A kind of objects that a cube plans from.

    ``kind`` is as in manifests (``Budget``), ``api_version`` is ``GROUP/VERSION``, ``plural`` the
    name in the API's paths. Two cubes may watch one kind if they declare it alike. ``status``:
    plans give conditions of its objects (``Condition``), which the agents write to the subresource
    of that name; their account has to be let patch it.
    """

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True
    status: bool = False

    @property
    def group(self) -> str:
        """The API group."""
        return self.api_version.partition("/")[0]

    @property
    def definition(self) -> str:
        """The name of the CustomResourceDefinition: ``budgets.example.com``."""
        return f"{self.plural}.{self.group}"
