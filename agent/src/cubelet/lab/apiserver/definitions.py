"""CustomResourceDefinitions: each stored one has the server keep one more kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cubelet.lab.apiserver import errors
from cubelet.lab.apiserver.resources import Resource, named
from cubelet.sources.fields import Field, FieldError, dotted

DEFINITIONS: Final = named("customresourcedefinitions")


def defined_by(definition: Mapping[str, Any]) -> Resource:
    """The kind that a definition defines. Raises ApiError (422) for an unusable definition.

    Objects are stored as they are sent: schemas are not checked, and nothing is converted, so one
    version can be served.
    """
    root = Field(definition)
    try:
        spec, names = root["spec"], root["spec"]["names"]
        group, plural = spec["group"].name(), names["plural"].text(None)
        if root["metadata"]["name"].text() != f"{plural}.{group}":
            raise root["metadata"]["name"].error(f"must be {plural}.{group}")
        served = [each for each in spec["versions"].items() if each["served"].flag()]
        if len(served) != 1:
            raise spec["versions"].error("the lab's API server serves one version: name one")
        (version,) = served
        return Resource(
            group,
            plural,
            names["kind"].text(None),
            namespaced=spec["scope"].choice(("Namespaced", "Cluster")) == "Namespaced",
            status=version["subresources"]["status"].given,
            returned=True,
            short_names=names["shortNames"].each(Field.text),
            version=version["name"].text(None),
        )
    except FieldError as error:
        name = root["metadata"]["name"].value
        raise errors.invalid(DEFINITIONS, str(name), f"{dotted(error.path)}: {error}") from None


def established(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a definition whose kind is served."""
    types = ("NamesAccepted", "Established")
    return {
        "acceptedNames": definition["spec"]["names"],
        "conditions": [{"type": each, "status": "True"} for each in types],
        "storedVersions": [defined_by(definition).version],
    }
