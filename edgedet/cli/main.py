"""The command `edgedet`: every other file of this folder that has a function `command` is one verb, that function.

Exit codes: 0 done, 1 a gate failed, 2 the user's input is wrong, 130 interrupted, 70 a defect of edgedet's own, which
alone shows a traceback.
"""

from __future__ import annotations

import signal
import sys
import traceback

import typer

from edgedet import __version__, errors, plugins

app = typer.Typer(
    help="Export detectors, prove that the exports agree with PyTorch, run them on video.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"edgedet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnxsim": "export",
    "safetensors": "export",
    "lightning_fabric": "train",
    "openvino": "openvino",
    "scipy": "tracking",
    "faster_coco_eval": "eval",
    "matplotlib": "eval",
    "jinja2": "eval",
    "defusedxml": "eval",
    "starlette": "web",
    "uvicorn": "web",
    "prometheus_client": "web",
    "paho": "mqtt",
    "cuda": "tensorrt",
}
"""Library → the extra that brings it."""


for _verb in plugins.names("edgedet.cli"):
    if _verb != "main" and hasattr(_module := plugins.find("edgedet.cli", _verb), "command"):
        app.command(_verb)(_module.command)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; turn an edgedet error into one line on stderr and its exit code."""
    # `docker stop` and systemd end a stream this way; what there is by then is kept, as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except (errors.EdgedetError, errors.GateFailed) as error:
        print(f"edgedet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("edgedet: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (message := _environment(error)) is None:
            traceback.print_exc()
            sys.exit(70)
        print(f"edgedet: {message}", file=sys.stderr)
        sys.exit(2)


def _environment(error: Exception) -> str | None:
    """What the user can mend about an error that is not edgedet's own: a missing library, a refusal of the system's."""
    if isinstance(error, ModuleNotFoundError):
        library = (error.name or "").partition(".")[0]
        if library in EXTRAS:
            return f"this needs {library}, which is not installed; pip install 'edgedet[{EXTRAS[library]}]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None
