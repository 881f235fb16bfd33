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

(A cube that plans from pods as well names those units, too, when a pod changes.) The definition
itself, with the schema that the API server holds objects to, is applied by whoever installs the
cube, and the agents' account needs get, list and watch of the kind. Until it is there the agent
says so among its problems, and all else works. In a folder of manifests nothing defines a kind:
objects are read as they stand, so plan with what a schema would have refused in mind.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A kind of objects that a cube plans from.

    ``kind`` is as in manifests (``Budget``), ``api_version`` is ``GROUP/VERSION``, ``plural`` the
    name in the API's paths. Two cubes may watch one kind if they declare it alike.
    """

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group."""
        return self.api_version.partition("/")[0]

    @property
    def definition(self) -> str:
        """The name of the CustomResourceDefinition: ``budgets.example.com``."""
        return f"{self.plural}.{self.group}"
