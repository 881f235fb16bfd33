"""The commands `cubelet lab ...`: a cluster in network namespaces of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import yaml

from cubelet.console.output import Format, print_as, table, tell, told
from cubelet.lab import agents, cluster, documents, netns, views
from cubelet.lab.documents import Document
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, key_of, kind_named
from cubelet.lab.kubelet import Kubelet
from cubelet.lab.layout import LabNode, LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects, Outcome
from cubelet.lab.options import parse_settings
from cubelet.lab.store import Store

app = typer.Typer(
    name="lab",
    help="A cluster in network namespaces of this machine, with real agents and real packets.",
    no_args_is_help=True,
)


class Composition(StrEnum):
    """How cubes are joined into programs."""

    FUSED = "fused"
    TAILCALL = "tailcall"


Name = Annotated[
    str, typer.Option("--name", envvar="CUBELET_LAB", help="Which lab: letters and digits.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print it.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The objects' namespace.")]
File = Annotated[
    Path,
    typer.Option("--filename", "-f", help="A file of manifests, a folder of them, or - for stdin."),
]
Nodes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NODE...]", help="Of which nodes; all if none is named."),
]
Mode = Annotated[Composition, typer.Option(help="How cubes are joined into programs.")]
Api = Annotated[
    bool,
    typer.Option(
        "--api",
        help="Keep objects on an API server instead of in a folder: one of the lab's own, or the "
        "one that KUBECONFIG names, where the lab removes afterwards what it made.",
    ),
]


@app.command()
def up(
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 2,
    name: Name = "lab",
    pod_cidr: Annotated[
        list[str] | None,
        typer.Option(help="One range to be split among the nodes, or one for each (repeat it)."),
    ] = None,
    composition: Mode = Composition.FUSED,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the agents: KEY=VALUE, dots go deeper."),
    ] = None,
    api: Api = False,
    output: Output = Format.TABLE,
) -> None:
    """Build a cluster and wait until its agents are ready."""
    with explained(output):
        settings = parse_settings([f"composition={composition.value}", *(set_ or [])])
        spec = LabSpec(name, plan_nodes(nodes, tuple(pod_cidr or ())), settings, api)
        cluster.up(Layout(name), spec, tell)
        keys = [Key("Lab", "", name), *(Key("Node", "", node.name) for node in spec.nodes)]
        _report([Outcome(key, "created") for key in keys], output)


@app.command()
def down(name: Name = "lab", output: Output = Format.TABLE) -> None:
    """Remove a cluster and all that belongs to it, whatever state it is in."""
    with explained(output):
        there = cluster.down(Layout(name))
        _report([Outcome(Key("Lab", "", name), "deleted" if there else "absent")], output)


@app.command()
def restart(nodes: Nodes = None, name: Name = "lab", output: Output = Format.TABLE) -> None:
    """End agents as an upgrade does and start them again, with the cubes that are installed now."""
    with explained(output), _nodes(name, nodes) as (layout, spec):
        agents.restart(layout, spec, tell)
        _report([Outcome(_agent(node), "restarted") for node in spec.nodes], output)


@app.command()
def kill(nodes: Nodes = None, name: Name = "lab", output: Output = Format.TABLE) -> None:
    """End agents as a crash does (kill -9); programs forward on, and `restart` starts them."""
    with explained(output), _nodes(name, nodes) as (layout, spec):
        ran = agents.kill(layout, spec)
        done = [(node, "killed" if node in ran else "not running") for node in spec.nodes]
        _report([Outcome(_agent(node), what) for node, what in done], output)


@app.command()
def apply(filename: File, name: Name = "lab", output: Output = Format.TABLE) -> None:
    """Create or change objects; returns when they are in force."""
    with explained(output), _objects(name) as objects:
        found, unusable = _documents(filename)
        _report([*unusable, *objects.apply(found)], output)


@app.command()
def delete(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND NAME...]", show_default=False)
    ] = None,
    filename: Annotated[Path | None, typer.Option("--filename", "-f")] = None,
    namespace: Namespace = "default",
    name: Name = "lab",
    output: Output = Format.TABLE,
) -> None:
    """Remove the objects in a file, or objects by kind and name."""
    with explained(output), _objects(name) as objects:
        unusable: list[Outcome] = []
        if filename is None:
            keys = _keys(what or [], namespace)
        else:
            found, unusable = _documents(filename)
            keys = [key_of(document.manifest) for document in found]
        _report([*unusable, *objects.delete(keys)], output)


@app.command()
def get(
    kind: str,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Only of this namespace.")
    ] = "",
    output: Output = Format.TABLE,
    name: Name = "lab",
) -> None:
    """List objects: pods, services, networkpolicies, namespaces, nodes, endpointslices."""
    with explained(output):
        layout = Layout(name)
        layout.load()
        wanted = kind_named(kind)
        found = Store(layout).list(wanted.name, namespace)
        print_as(output, views.as_list(found), lambda: views.manifests(wanted, found))


@app.command(name="exec")
def execute(
    target: Annotated[str, typer.Argument(metavar="POD|node/NAME|outside")],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...")],
    namespace: Namespace = "default",
    name: Name = "lab",
) -> None:
    """Run a command where a pod, a node or the outside is; its exit status is passed on."""
    with explained():
        argv = netns.command(_place(Layout(name), target, namespace), command)
        sys.stdout.flush()
        os.execvp(argv[0], argv)


@app.command()
def probe(output: Output = Format.TABLE, name: Name = "lab") -> None:
    """Try every pod, protocol and port from every other pod, with real packets."""
    from cubelet.lab.probe import probe as probe_lab

    with explained(output):
        layout = Layout(name)
        layout.load()
        rows = [msgspec.to_builtins(row) for row in probe_lab(layout)]
        headers = ("FROM", "TO", "PROTOCOL", "PORT", "VERDICT")
        print_as(output, rows, lambda: table(headers, [tuple(row.values()) for row in rows]))


@app.command()
def demo(
    name: Name = "demo",
    composition: Mode = Composition.FUSED,
    api: Api = False,
    output: Output = Format.TABLE,
) -> None:
    """Build a cluster, show what it does to real traffic, and remove it."""
    from cubelet.lab.demo import run

    with explained(output):
        report = run(Layout(name), composition.value, tell, api=api)
        print_as(output, msgspec.to_builtins(report), report.text)
        if not report.ok:
            raise typer.Exit(1)


@contextmanager
def explained(output: Format = Format.TABLE) -> Iterator[None]:
    """Print errors of the block, also those of the system and of YAML; exit with 1."""
    with told(output):
        try:
            yield
        except BrokenPipeError:
            raise  # the reader of our output is gone
        except (OSError, subprocess.SubprocessError, yaml.YAMLError) as error:
            raise LabError(str(error)) from error


@contextmanager
def _nodes(name: str, nodes: Sequence[str] | None) -> Iterator[tuple[Layout, LabSpec]]:
    """The lab with only these of its nodes, held for the block."""
    layout = Layout(name)
    layout.load()
    with cluster.locked(layout):
        yield layout, agents.chosen(layout.load(), nodes or ())


def _agent(node: LabNode) -> Key:
    return Key("Agent", "", node.name)


@contextmanager
def _objects(name: str) -> Iterator[Objects]:
    layout = Layout(name)
    spec = layout.load()
    with cluster.locked(layout):
        yield Objects(layout, spec)


def _documents(filename: Path) -> tuple[list[Document], list[Outcome]]:
    """The objects of a file or folder, and failed outcomes for its problems."""
    path = Path("/dev/stdin") if str(filename) == "-" else filename
    found, problems = documents.read(path)
    return found, [Outcome(Key("File", "", p.file), "failed", str(p)) for p in problems]


def _keys(what: Sequence[str], namespace: str) -> list[Key]:
    if len(what) < 2:
        raise LabError("name what to delete: -f FILE, or KIND NAME...")
    if what[0].lower() in ("deployment", "deployments", "deploy"):
        return [Key("Deployment", namespace, each) for each in what[1:]]
    kind = kind_named(what[0])
    return [Key(kind.name, namespace if kind.namespaced else "", each) for each in what[1:]]


def _place(layout: Layout, target: str, namespace: str) -> str:
    spec = layout.load()
    if target == "outside":
        return layout.outside_netns
    kind, slash, node = target.partition("/")
    if slash and kind == "node":
        if node not in {each.name for each in spec.nodes}:
            raise LabError(f"no node {node!r} in lab {layout.name}")
        return layout.node_netns(node)
    store = Store(layout)
    pod = store.get(Key("Pod", namespace, target))
    if pod is None:
        raise LabError(f"no pod {target!r} in namespace {namespace}")
    return Kubelet(layout, store).netns_of(pod)


def _report(outcomes: Sequence[Outcome], output: Format) -> None:
    if output.for_people:
        for outcome in outcomes:
            print(outcome, file=sys.stdout if outcome.ok else sys.stderr)
    else:
        print_as(output, [outcome.row() for outcome in outcomes], str)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)
