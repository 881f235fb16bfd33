"""The folder of a lab's objects, which agents watch: one file each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import yaml

from cubelet.lab.documents import Loader
from cubelet.lab.kinds import Key, Manifest, file_name, key_of
from cubelet.lab.layout import Layout

_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Folder:
    """The folder of objects; each write is one rename, so that no agent reads half an object."""

    allocates: Final = False
    defines: Final = False

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.manifests
        self._staging = layout.staging

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""
        try:
            text = self._file(key).read_text()
        except FileNotFoundError:
            return None
        manifest: Manifest = yaml.load(text, Loader=Loader)
        return manifest

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""
        files = self._folder.glob(f"{kind.lower()}.*.yaml")
        manifests: list[Manifest] = [yaml.load(f.read_text(), Loader=Loader) for f in files]
        wanted = [m for m in manifests if not namespace or key_of(m).namespace == namespace]
        return sorted(wanted, key=key_of)

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if an equal one was stored already."""
        key = key_of(manifest)
        if self.get(key) == manifest:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        self._staging.mkdir(parents=True, exist_ok=True)
        draft = self._staging / self._file(key).name
        draft.write_text(yaml.dump(manifest, Dumper=_DUMPER, sort_keys=False))
        os.replace(draft, self._file(key))
        return True

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there."""
        try:
            self._file(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def _file(self, key: Key) -> Path:
        return self._folder / file_name(key)
