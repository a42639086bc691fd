"""`edgedet train`: a data set and, best, a pretrained checkpoint in; a detector out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from edgedet.console import print_json, say
from edgedet.errors import UsageError

RUNS = Path("runs/train")


def command(
    context: typer.Context,
    data: Path | None = typer.Option(None, help="Data set: COCO, VOC or YOLO; its train and val splits are found."),
    model: str = typer.Option("yolox-nano", help="Model to train, as `edgedet models` names them."),
    init: Path | None = typer.Option(None, help="Detector or backbone weights to start from, or street-nano."),
    val: Path | None = typer.Option(None, help="Validation data, where the data set has no val split."),
    classes: str | None = typer.Option(None, help="Train on these classes only, in this order: person,car"),
    epochs: int | None = typer.Option(None, help="Default: as many as make 780 steps with --init, 30 000 without."),
    batch: int = typer.Option(16, help="Images a step and device."),
    size: int | None = typer.Option(None, help="Side of the square input in pixels. Default: the model's."),
    lr: float | None = typer.Option(None, help="Peak learning rate. Default: .001 at batch 16, growing with its root."),
    seed: int = typer.Option(0, help="Everything random follows from it."),
    devices: int = typer.Option(1, help="Devices, each its own process."),
    accelerator: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    precision: str = typer.Option("auto", help="auto (bf16-mixed on CUDA, else 32-true), 32-true, bf16-mixed or 16-mixed."),
    norms: str = typer.Option("batch", help="batch, or frozen: keep the statistics of --init, for few images."),
    plain_epochs: int | None = typer.Option(None, help="Last epochs without augmentation. Default: 15 % of them."),
    workers: int = typer.Option(2, help="Threads that prepare images."),
    out: Path | None = typer.Option(None, help="Run folder. Default: runs/train/DATA-MODEL, numbered."),
    resume: Path | None = typer.Option(None, help="Run folder to go on with; takes no other option but --json."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Train a detector; the run folder holds best.safetensors, curves and predictions.

    A stopped run goes on with --resume to the same end.

    Example: `edgedet train --data bccd --model yolox-nano --init yolox_nano.pth`
    """
    if (data is None) == (resume is None):
        raise UsageError("give either --data for a new run or --resume for one that stopped")
    if resume is not None and (others := _given(context) - {"--resume", "--json"}):
        raise UsageError(f"--resume goes on as the run was begun, so it cannot take {', '.join(sorted(others))}; leave it out")
    from edgedet import assets
    from edgedet.training import loop
    from edgedet.training.config import TrainingConfig

    if resume is not None:
        result = loop.resume(resume)
    else:
        assert data is not None
        names = tuple(name.strip() for name in classes.split(",")) if classes is not None else None
        result = loop.train(
            TrainingConfig(
                data=data, out=out or _new_folder(data, model), model=model, val=val, classes=names,
                init=init and assets.named(init),
                epochs=epochs, batch=batch, size=size, lr=lr, seed=seed, workers=workers,
                devices=devices, accelerator=accelerator, precision=precision, norms=norms, plain_epochs=plain_epochs,
            )
        )  # fmt: skip
    if result is None:  # a helper process of --devices; the first one speaks
        return
    say(f"best of {result.epochs} epochs: {result.epoch}, AP {result.ap:.3f}, AP50 {result.ap50:.3f}: {result.best}")
    if as_json:
        print_json(asdict(result))
    else:
        print(result.best)


def _given(context: typer.Context) -> set[str]:
    """The options that the user wrote."""
    sources = {parameter.opts[0]: context.get_parameter_source(parameter.name or "") for parameter in context.command.params}
    return {option for option, source in sources.items() if source and source.name == "COMMANDLINE"}


def _new_folder(data: Path, model: str) -> Path:
    """The first folder of the default name that does not exist."""
    name = f"{data.stem}-{model}"
    folders = (RUNS / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000))
    return next(folder for folder in folders if not folder.exists())
