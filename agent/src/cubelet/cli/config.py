"""The commands `cubelet config ...`: the cluster-wide configuration, without an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cubelet.cli import views
from cubelet.console import logs
from cubelet.console.output import CommandError, Format, print_as, told

app = typer.Typer(
    name="config", help="The cluster-wide configuration, without an agent.", no_args_is_help=True
)


@app.callback()
def config() -> None:
    """The cluster-wide configuration, without an agent."""


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="The ConfigMap's manifest, or its config.yaml alone.")
    ],
    settings: Annotated[
        Path | None, typer.Option("--config", help="The node's own settings file.")
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o")] = Format.TABLE,
) -> None:
    """Check a configuration as agents do, against the cubes installed here; show what it makes.

    What only the compiler and the verifier can tell is told by the agents.
    """
    import logging

    from cubelet.composer.composition import CompositionError
    from cubelet.config.node import SettingsError, load
    from cubelet.config.setup import make_setup
    from cubelet.cubes.discovery import discover

    logs.configure(logging.CRITICAL)
    with told(output):
        try:
            made = make_setup(load(settings), _read(file), discover())
        except (SettingsError, CompositionError) as error:
            raise CommandError(f"{file}: {error}") from error
        composition = made.composition
        found = {
            "mode": composition.mode,
            "core": [cube.instance for cube in composition.core],
            "stacks": {
                name: [cube.instance for cube in stack]
                for name, stack in composition.stacks.items()
            },
            "excluded": made.left_out,
        }
        print_as(output, found, lambda: views.chain(found))


def _read(file: Path) -> Any:
    """The configuration in a file of either form. Raises SettingsError, CommandError."""
    import yaml

    from cubelet.config.cluster import parse_config, read_config
    from cubelet.sources.decode import ObjectError, decode_object
    from cubelet_hooks.objects import ConfigMap

    try:
        text = file.read_text()
        document = yaml.safe_load(text)
        if not isinstance(document, dict) or document.get("kind") != ConfigMap.kind:
            return parse_config(text)
        config_map = decode_object(document)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError, ObjectError) as error:
        raise CommandError(f"{file}: {error}") from error
    assert isinstance(config_map, ConfigMap)
    return read_config(config_map)
