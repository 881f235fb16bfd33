"""`lab apply` and `lab delete`: turns documents into stored objects and running pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple, TypeVar

from cubelet.lab import admission, agents, guests, validation
from cubelet.lab.documents import Document
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import DEFINITION, Key, Manifest, all_kinds, file_name, is_kept, key_of
from cubelet.lab.kubelet import Kubelet
from cubelet.lab.layout import LabSpec, Layout
from cubelet.lab.store import Store

T = TypeVar("T")

_PARALLEL_PODS: Final = 8
_DEPLOYMENT: Final = "Deployment"
_BAD: Final = ("failed", "ignored", "not found", "problem")


class Outcome(NamedTuple):
    """The outcome for one object: created, configured, unchanged, not needed, deleted, ignored, not
    found or failed; or a `problem` of a node's agent."""

    key: Key
    done: str
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return self.done not in _BAD

    def __str__(self) -> str:
        return f"{self.key} {self.done}" + (f": {self.detail}" if self.detail else "")

    def row(self) -> dict[str, str]:
        """The outcome as a row for JSON or YAML."""
        return {**self.key._asdict(), "outcome": self.done, "detail": self.detail}


class Objects:
    """Changes the lab's objects for its user. Callers hold the lab's lock."""

    def __init__(self, layout: Layout, spec: LabSpec) -> None:
        self._layout = layout
        self._spec = spec
        self.store: Final = Store(layout)
        self.kubelet: Final = Kubelet(layout, self.store)

    def apply(self, documents: Sequence[Manifest | Document]) -> list[Outcome]:
        """Store objects and start pods; returns when the agents have put all of it in force.

        Policies and Services are in force before a new pod is attached. An object with an error has
        the outcome `failed` and is not stored; the others are applied nevertheless.
        """
        outcomes: list[Outcome] = []
        accepted = self._accept(documents, outcomes)
        accepted.sort(key=lambda document: key_of(document.manifest).kind != DEFINITION)
        outcomes += self._add_namespaces([document.manifest for document in accepted])
        pods: list[Document] = []
        deployments: list[Key] = []
        for document in accepted:
            key = key_of(document.manifest)
            if key.kind == "Pod":
                pods.append(document)
            elif key.kind == _DEPLOYMENT:
                made = _attempt(outcomes, key, partial(_expand, document))
                if made is not None:
                    deployments.append(key)
                    pods += made
            else:
                outcomes += _outcome(key, partial(self._put, document))
        outcomes += self._remove_pods(self._outdated(deployments, pods))
        outcomes += self._apply_pods(pods)
        return outcomes + self._sync()

    def delete(self, keys: Sequence[Key]) -> list[Outcome]:
        """Remove objects and stop pods, with a Namespace its objects, with a Deployment its pods.

        Returns when the agents have put it in force; a missing object is `not found`.
        """
        outcomes: list[Outcome] = []
        pods: list[Manifest] = []
        others: list[Key] = []
        usable = [key for key in keys if _attempt(outcomes, key, partial(file_name, key))]
        every = [inner for key in usable for inner in self._with_contents(key)]
        for key in dict.fromkeys(every):
            pod = self.store.get(key) if key.kind == "Pod" else None
            if pod:
                pods.append(pod)
            elif key.kind != _DEPLOYMENT:
                others.append(key)
        outcomes += self._remove_pods(pods)
        for key in others:
            outcomes += _outcome(key, partial(self._remove, key))
        return outcomes + self._sync()

    def _sync(self) -> list[Outcome]:
        """Wait for the agents; returns their problems as outcomes."""
        return [
            Outcome(Key("Node", "", node), "problem", problem)
            for node, problems in agents.sync(self._layout, self._spec).items()
            for problem in problems
        ]

    def _accept(
        self, documents: Sequence[Manifest | Document], outcomes: list[Outcome]
    ) -> list[Document]:
        """The documents that are valid, completed; the others' outcomes are added."""

        def accept(document: Document) -> Document:
            validation.check(document)
            return replace(document, manifest=admission.normalise(document.manifest))

        given = [each if isinstance(each, Document) else Document(each) for each in documents]
        tried = [_attempt(outcomes, key_of(each.manifest), partial(accept, each)) for each in given]
        return [document for document in tried if document is not None]

    def _with_contents(self, key: Key) -> Iterator[Key]:
        if key.kind == _DEPLOYMENT:
            pods = self.store.list("Pod", key.namespace)
            yield from (key_of(pod) for pod in pods if admission.owned_by(pod, key))
        if key.kind == "Namespace":
            for kind in all_kinds():
                if kind.namespaced:
                    inside = self.store.list(kind.name, key.name)
                    yield from (key_of(m) for m in inside if not admission.managed(m))
        yield key

    def _remove(self, key: Key) -> Outcome:
        if not is_kept(key.kind):
            return _ignored(key, key.kind)
        if key.kind == DEFINITION and not self.store.defines:
            return _not_needed(key)
        if key.kind == "Node":
            raise LabError("nodes are made by `cubelet lab up`")
        return Outcome(key, "deleted" if self.store.remove(key) else "not found")

    def _add_namespaces(self, manifests: Sequence[Manifest]) -> list[Outcome]:
        """Create the missing namespaces of these objects, unless they are among the manifests."""
        named = {key_of(m).name for m in manifests if m["kind"] == "Namespace"}
        used = {key_of(m).namespace for m in manifests} - named - {""}
        missing = [name for name in sorted(used) if not self.store.get(Key("Namespace", "", name))]
        for name in missing:
            self.store.put(admission.namespace(name))
        return [Outcome(Key("Namespace", "", name), "created") for name in missing]

    def _put(self, document: Document) -> Outcome:
        manifest = document.manifest
        key = key_of(manifest)
        if not is_kept(key.kind):
            return _ignored(key, key.kind)
        if key.kind == DEFINITION and not self.store.defines:
            unknown = guests.check_definition(manifest) is None
            return _ignored(key, manifest["spec"]["names"]["kind"]) if unknown else _not_needed(key)
        old = self.store.get(key)
        if key.kind == "Node":
            manifest = _relabelled_node(old, manifest)
        if key.kind == "Service" and not self.store.allocates:
            manifest = admission.service(manifest, self.store.list("Service"), old)
        changed = self._store(document, manifest)
        return Outcome(key, "unchanged" if not changed else "configured" if old else "created")

    def _store(self, document: Document, completed: Manifest) -> bool:
        """Store a document's completed manifest, if valid; false if an equal one was stored."""
        validation.check(replace(document, manifest=completed))
        return self.store.put(completed)

    def _outdated(self, deployments: Sequence[Key], pods: Sequence[Document]) -> list[Manifest]:
        """Stored pods of these Deployments that are no longer among their `pods`."""
        wanted = {key_of(pod.manifest) for pod in pods}
        return [
            pod
            for deployment in deployments
            for pod in self.store.list("Pod", deployment.namespace)
            if admission.owned_by(pod, deployment) and key_of(pod) not in wanted
        ]

    def _apply_pods(self, pods: Sequence[Document]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        fresh: list[tuple[Document, str]] = []
        for pod in pods:
            key = key_of(pod.manifest)
            old = self.store.get(key)
            if old and admission.same_pod(old, pod.manifest):
                outcomes += _outcome(key, partial(self._relabel, old, pod))
            elif old:
                outcomes += [o for o in self._remove_pods([old]) if not o.ok]
                fresh.append((pod, "configured"))
            else:
                fresh.append((pod, "created"))
        return outcomes + self._start_pods(fresh)

    def _relabel(self, old: Manifest, pod: Document) -> Outcome:
        changed = self._store(pod, admission.relabel(old, pod.manifest))
        return Outcome(key_of(old), "configured" if changed else "unchanged")

    def _start_pods(self, pods: Sequence[tuple[Document, str]]) -> list[Outcome]:
        """Bind and store the pods, let the agents see them, then attach them in parallel."""
        outcomes: list[Outcome] = []
        bound: list[tuple[Manifest, str]] = []
        for pod, done in pods:
            placed = _attempt(outcomes, key_of(pod.manifest), partial(self._bind, pod))
            if placed is not None:
                bound.append((placed, done))
        if not bound:
            return outcomes
        agents.sync(self._layout, self._spec)

        def start(pod: Manifest, done: str) -> list[Outcome]:
            return _outcome(key_of(pod), partial(self._start, pod, done))

        with ThreadPoolExecutor(_PARALLEL_PODS) as pool:
            return outcomes + [o for some in pool.map(lambda p: start(*p), bound) for o in some]

    def _bind(self, pod: Document) -> Manifest:
        placed = admission.bind(pod.manifest, self.store.list("Node"), self.store.list("Pod"))
        self._store(pod, placed)
        return self.store.get(key_of(placed)) or placed  # an API server gives it its uid

    def _start(self, pod: Manifest, done: str) -> Outcome:
        self.kubelet.start(pod)
        return Outcome(key_of(pod), done)

    def _remove_pods(self, pods: Sequence[Manifest]) -> list[Outcome]:
        def stop(pod: Manifest) -> list[Outcome]:
            return _outcome(key_of(pod), partial(self._stop, pod))

        with ThreadPoolExecutor(_PARALLEL_PODS) as pool:
            return [outcome for some in pool.map(stop, pods) for outcome in some]

    def _stop(self, pod: Manifest) -> Outcome:
        self.kubelet.stop(pod)
        return Outcome(key_of(pod), "deleted")


def _attempt(outcomes: list[Outcome], key: Key, work: Callable[[], T]) -> T | None:
    """Do work for one object; an error is added as its `failed` outcome, and None returned."""
    try:
        return work()
    except (LabError, OSError) as error:
        outcomes.append(Outcome(key, "failed", str(error)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        outcomes.append(Outcome(key, "failed", f"malformed: {error!r}"))
    return None


def _outcome(key: Key, work: Callable[[], Outcome]) -> list[Outcome]:
    """The outcome of `work`, `failed` if it raises."""
    failed: list[Outcome] = []
    outcome = _attempt(failed, key, work)
    return failed if outcome is None else [outcome]


def _ignored(key: Key, kind: str) -> Outcome:
    return Outcome(key, "ignored", guests.unwatched(kind))


def _not_needed(key: Key) -> Outcome:
    return Outcome(key, "not needed", "objects in this lab's folder are read without a schema")


def _expand(deployment: Document) -> list[Document]:
    """A Deployment's pods. Only the last is checked, since all have the same errors."""
    made = admission.expand(deployment.manifest)
    pods = [deployment.part(("spec", "template"), pod) for pod in made]
    for pod in pods[-1:]:  # the one with the longest name
        validation.check(pod)
    return pods


def _relabelled_node(old: Manifest | None, new: Manifest) -> Manifest:
    if old is None:
        raise LabError("nodes are made by `cubelet lab up`; labels of theirs can be applied")
    metadata = {**new["metadata"]}
    own = {"kubernetes.io/hostname": metadata["name"]}
    metadata["labels"] = {**(metadata.get("labels") or {}), **own}
    return {**old, "metadata": metadata}
