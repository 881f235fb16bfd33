"""The maps of a composition: opened from their pins, compared, resized or created."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from cubelet.bpf.fs import ensure_bpffs
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.resize import resize
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.layout import MapSpec
from cubelet.datapath.migration import carry_over

log = structlog.get_logger()


def open_maps(specs: Iterable[MapSpec], folder: Path | None) -> dict[str, BpfMap]:
    """The maps by C name. Those that outlive compositions are pinned in ``folder`` (None: nowhere).

    A pin's name holds the hash of its records' layout, so a map of another layout is another map
    and its old content is never misread; a cube may say how entries of an earlier one go on. A map
    whose size changed is copied; programs that run keep the old one until the new composition
    replaces them.
    """
    if folder is not None:
        ensure_bpffs(folder)
    opened: dict[str, BpfMap] = {}
    try:
        for spec in specs:
            if folder is None or spec.per_composition:
                opened[spec.c_name] = _create(spec)
            else:
                opened[spec.c_name] = _pinned(spec, folder / f"{spec.c_name}-{spec.identity}")
    except BaseException:
        close_maps(opened)
        raise
    return opened


def close_maps(maps: Mapping[str, BpfMap]) -> None:
    """Close descriptors; pins and programs keep the maps."""
    for each in maps.values():
        each.close()


def _create(spec: MapSpec) -> BpfMap:
    return BpfMap.create(spec.c_name, spec.layout)


def _pinned(spec: MapSpec, path: Path) -> BpfMap:
    if not path.exists():
        created = _create(spec)
        carry_over(spec, created, path.parent)
        created.pin(path)
        return created
    found = BpfMap.open(path)
    differences = found.info.layout.differences(spec.layout)
    if not differences:
        return found
    found.close()
    if set(differences) == {"max_entries"}:
        return _resized(spec, path)
    raise BpfError(
        22,
        "use",
        f"pinned map {path}",
        f"it differs in {', '.join(differences)} from what {spec.owner} declares; remove the pin",
    )


def _resized(spec: MapSpec, path: Path) -> BpfMap:
    try:
        return resize(path, spec.layout)
    except BpfError as error:
        log.warning("map keeps its size", map=spec.c_name, reason=str(error))
    except ValueError:
        created = _create(spec)  # a ring buffer: its old records need not be kept
        created.pin(path, replace=True)
        return created
    return BpfMap.open(path)
