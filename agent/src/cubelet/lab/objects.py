"""`lab apply` and `lab delete`: from documents to stored objects and running pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, TypeVar

from cubelet.lab import admission, agents
from cubelet.lab.errors import LabError
from cubelet.lab.kubelet import Kubelet
from cubelet.lab.layout import LabSpec, Layout
from cubelet.lab.store import KINDS, Key, Manifest, Store, key_of

T = TypeVar("T")

_PARALLEL_PODS: Final = 8
_DEPLOYMENT: Final = "Deployment"
_APPLIED: Final = tuple(kind.name for kind in KINDS)


class Outcome(NamedTuple):
    """What became of one object: created, configured, unchanged, deleted, ignored or failed."""

    key: Key
    done: str
    detail: str = ""


class Objects:
    """The lab's objects as its user changes them. One command at a time: hold the lab's lock."""

    def __init__(self, layout: Layout, spec: LabSpec) -> None:
        self._layout = layout
        self._spec = spec
        self.store: Final = Store(layout)
        self.kubelet: Final = Kubelet(layout, self.store)

    def apply(self, documents: Sequence[Manifest]) -> list[Outcome]:
        """Store objects and start pods; returns when the agents have put all of it in force.

        Policies and Services are in force before a new pod is attached. What is wrong with one
        object is its outcome (`failed`), and the others are applied all the same.
        """
        documents = [admission.normalise(document) for document in documents]
        outcomes = self._add_namespaces(documents)
        pods: list[Manifest] = []
        deployments: list[Manifest] = []
        for document in documents:
            key = key_of(document)
            if key.kind == "Pod":
                pods.append(document)
            elif key.kind == _DEPLOYMENT:
                made = _attempt(outcomes, key, partial(admission.expand, document))
                if made is not None:
                    deployments.append(document)
                    pods += made
            else:
                outcomes += _outcome(key, partial(self._put, document))
        outcomes += self._remove_pods(self._outdated(deployments, pods))
        outcomes += self._apply_pods(pods)
        agents.sync(self._layout, self._spec)
        return outcomes

    def delete(self, keys: Sequence[Key]) -> list[Outcome]:
        """Remove objects and stop pods; a Namespace takes its objects, a Deployment its pods.

        Returns when the agents have put it in force; what does not exist is `not found`.
        """
        pods: list[Manifest] = []
        others: list[Key] = []
        every = [inner for key in keys for inner in self._with_contents(key)]
        for key in dict.fromkeys(every):
            pod = self.store.get(key) if key.kind == "Pod" else None
            if pod:
                pods.append(pod)
            elif key.kind != _DEPLOYMENT:
                others.append(key)
        outcomes = self._remove_pods(pods)
        for key in others:
            outcomes += _outcome(key, partial(self._remove, key))
        agents.sync(self._layout, self._spec)
        return outcomes

    def _with_contents(self, key: Key) -> Iterator[Key]:
        if key.kind == _DEPLOYMENT:
            pods = self.store.list("Pod", key.namespace)
            yield from (key_of(pod) for pod in pods if admission.owned_by(pod, key))
        if key.kind == "Namespace":
            for kind in KINDS:
                if kind.namespaced:
                    yield from (key_of(m) for m in self.store.list(kind.name, key.name))
        yield key

    def _remove(self, key: Key) -> Outcome:
        if key.kind == "Node":
            raise LabError("nodes are made by `cubelet lab up`")
        return Outcome(key, "deleted" if self.store.remove(key) else "not found")

    def _add_namespaces(self, documents: Sequence[Manifest]) -> list[Outcome]:
        """Create the namespaces that objects are in, unless they come along."""
        named = {key_of(d).name for d in documents if d["kind"] == "Namespace"}
        used = {key_of(d).namespace for d in documents} - named - {""}
        missing = [name for name in sorted(used) if not self.store.get(Key("Namespace", "", name))]
        for name in missing:
            self.store.put(admission.namespace(name))
        return [Outcome(Key("Namespace", "", name), "created") for name in missing]

    def _put(self, manifest: Manifest) -> Outcome:
        key = key_of(manifest)
        if key.kind not in _APPLIED:
            return Outcome(key, "ignored", f"a lab has no {key.kind}")
        old = self.store.get(key)
        if key.kind == "Node":
            manifest = _relabelled_node(old, manifest)
        if key.kind == "Service":
            manifest = admission.service(manifest, self.store.list("Service"), old)
        changed = self.store.put(manifest)
        return Outcome(key, "unchanged" if not changed else "configured" if old else "created")

    def _outdated(
        self, deployments: Sequence[Manifest], pods: Sequence[Manifest]
    ) -> list[Manifest]:
        """Stored pods of these Deployments that are no longer among their `pods`."""
        wanted = {key_of(pod) for pod in pods}
        return [
            pod
            for deployment in deployments
            for pod in self.store.list("Pod", key_of(deployment).namespace)
            if admission.owned_by(pod, key_of(deployment)) and key_of(pod) not in wanted
        ]

    def _apply_pods(self, pods: Sequence[Manifest]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        fresh: list[tuple[Manifest, str]] = []
        for pod in pods:
            old = self.store.get(key_of(pod))
            if old and admission.same_pod(old, pod):
                changed = self.store.put(admission.relabel(old, pod))
                outcomes.append(Outcome(key_of(pod), "configured" if changed else "unchanged"))
            elif old:
                outcomes += [o for o in self._remove_pods([old]) if o.done == "failed"]
                fresh.append((pod, "configured"))
            else:
                fresh.append((pod, "created"))
        return outcomes + self._start_pods(fresh)

    def _start_pods(self, pods: Sequence[tuple[Manifest, str]]) -> list[Outcome]:
        """Bind and store the pods, let the agents see them, then attach them in parallel."""
        outcomes: list[Outcome] = []
        bound: list[tuple[Manifest, str]] = []
        for pod, done in pods:
            placed = _attempt(outcomes, key_of(pod), partial(self._bind, pod))
            if placed is not None:
                bound.append((placed, done))
        if not bound:
            return outcomes
        agents.sync(self._layout, self._spec)

        def start(pod: Manifest, done: str) -> list[Outcome]:
            return _outcome(key_of(pod), partial(self._start, pod, done))

        with ThreadPoolExecutor(_PARALLEL_PODS) as pool:
            return outcomes + [o for some in pool.map(lambda p: start(*p), bound) for o in some]

    def _bind(self, pod: Manifest) -> Manifest:
        placed = admission.bind(pod, self.store.list("Node"), self.store.list("Pod"))
        self.store.put(placed)
        return placed

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
    """Do what concerns one object; what is wrong with it becomes its outcome, and None."""
    try:
        return work()
    except LabError as error:
        outcomes.append(Outcome(key, "failed", str(error)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        outcomes.append(Outcome(key, "failed", f"malformed: {error!r}"))
    return None


def _outcome(key: Key, work: Callable[[], Outcome]) -> list[Outcome]:
    """The one outcome of `work`, also if it fails."""
    failed: list[Outcome] = []
    outcome = _attempt(failed, key, work)
    return failed if outcome is None else [outcome]


def _relabelled_node(old: Manifest | None, new: Manifest) -> Manifest:
    if old is None:
        raise LabError("nodes are made by `cubelet lab up`; labels of theirs can be applied")
    metadata = {**new["metadata"]}
    own = {"kubernetes.io/hostname": metadata["name"]}
    metadata["labels"] = {**(metadata.get("labels") or {}), **own}
    return {**old, "metadata": metadata}
