"""`python -m benchmarks`: runs one subject's measurements and writes what they gave to
benchmarks/results."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import (
    algorithms,
    audio,
    gemm,
    gradients,
    grouped,
    lines,
    machine,
    metal,
    metal_accuracy,
    native,
    others,
    profile,
    roofline,
    stock,
    streaming,
    training,
    transpose,
    upsample,
    vae,
    workloads,
    workspace,
)
from .harness import Effort
from .report import RESULTS, Report

SUBJECTS = {
    "vae": vae,
    "stock": stock,
    "others": others,
    "algorithms": algorithms,
    "gradients": gradients,
    "training": training,
    "grouped": grouped,
    "lines": lines,
    "gemm": gemm,
    "streaming": streaming,
    "audio": audio,
    "upsample": upsample,
    "transpose": transpose,
    "workspace": workspace,
}
console = Console()
app = typer.Typer(
    help="Measures mlx_conv3d against other libraries.", no_args_is_help=True, add_completion=False
)
cpu = typer.Typer(help="Subjects measured on the CPU.", no_args_is_help=True)
app.add_typer(cpu, name="cpu")


class Dtype(str, enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Isa(str, enum.Enum):
    avx2 = "avx2"
    avx512 = "avx512"
    avx512_bf16 = "avx512_bf16"


def _command(name: str, subject: Any) -> Callable[..., None]:
    def command(
        quick: Annotated[
            bool, typer.Option("--quick", help="A smoke run of seconds; writes nothing.")
        ] = False,
        dtype: Annotated[list[Dtype] | None, typer.Option(help="May be given several times.")] = None,
        gflop: Annotated[float | None, typer.Option(help="Direct GFLOP that layers are cropped to.")] = None,
        only: Annotated[
            str, typer.Option(help="Only layers whose name, kind or workload contains this.")
        ] = "",
        limit: Annotated[int | None, typer.Option(help="At most so many layers, spread evenly.")] = None,
        trials: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
        repeats: Annotated[int, typer.Option(min=1, help="Timed calls of every side in a round.")] = 5,
        threads: Annotated[int, typer.Option(min=1, help="Threads of every side.")] = machine.cpu_count(),
        isa: Annotated[
            Isa | None, typer.Option(help="Hold mlx_conv3d and PyTorch to these x86 instructions.")
        ] = None,
        torch: Annotated[bool, typer.Option(help="Compare with PyTorch.")] = True,
        stock: Annotated[bool, typer.Option(help="Compare with stock MLX.")] = True,
        save: Annotated[bool, typer.Option(help="Write results (not after --quick).")] = True,
        output: Annotated[Path, typer.Option(help="Where results go.")] = RESULTS,
    ) -> None:
        from . import sides
        from .run import Options, Run

        options = Options(
            quick=quick,
            dtypes=tuple(each.value for each in dtype) if dtype else None,
            gflop=gflop,
            only=only,
            limit=limit,
            torch=torch and getattr(subject, "USES_TORCH", True),
            stock=stock,
            effort=Effort(trials=trials, repeats=repeats),
        )
        limited = f"{name}-{isa.value}" if isa else name
        report = Report(limited, subject.TITLE, machine.typed_command(), threads, console)
        try:
            if isa:
                report.say(sides.limit_instruction_set(isa.value))
            sides.set_threads(threads, torch=options.torch)
            _measure(subject, Run(options, report))
        except sides.Missing as error:
            console.print(str(error), highlight=False, markup=False)
            raise typer.Exit(2) from None
        if save and not quick:
            for path in report.write(output):
                console.print(f"wrote {path}", highlight=False)
        if report.disagreements:
            raise typer.Exit(1)

    command.__doc__ = subject.__doc__
    return command


def _measure(subject: Any, run: Any) -> None:
    report, quick = run.report, run.options.quick
    report.roofline = roofline.measure(report.threads, quick=quick)
    subject.measure(run)
    after = roofline.measure(report.threads, quick=quick)
    report.finish(after)


for _name, _subject in SUBJECTS.items():
    cpu.command(_name)(_command(_name, _subject))


@cpu.command("roofline")
def _roofline(threads: Annotated[int, typer.Option(min=1)] = machine.cpu_count()) -> None:
    """The machine's FMA peak, bf16 matrix-unit peak and copy bandwidth."""
    measured = roofline.measure(threads)
    if measured is None:
        console.print("No working C++ compiler was found: set CXX to one.")
        raise typer.Exit(2)
    console.print(str(measured), highlight=False)


@cpu.command("profile")
def _profile(
    dtype: Annotated[list[Dtype] | None, typer.Option(help="May be given several times.")] = None,
    gflop: Annotated[float, typer.Option(help="Direct GFLOP that layers are cropped to.")] = profile.GFLOP,
    only: Annotated[str, typer.Option(help="Only layers whose name, kind or workload contains this.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many layers, spread evenly.")] = profile.LAYERS,
    threads: Annotated[int, typer.Option(min=1)] = machine.cpu_count(),
    save: Annotated[bool, typer.Option(help="Write results.")] = True,
    output: Annotated[Path, typer.Option(help="Where results go.")] = RESULTS,
) -> None:
    """Where the time of every layer goes: perf samples by stage, against the roofline."""
    from . import sides

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    try:
        layers = profile.chosen(only, gflop, limit)
        found, line = profile.run(
            layers, tuple(each.value for each in dtype or (Dtype.float32, Dtype.bfloat16)), threads, say
        )
    except sides.Missing as error:
        say(str(error))
        raise typer.Exit(2) from None
    if save:
        path = profile.write(profile.page(found, line, machine.typed_command(), threads), output)
        console.print(f"wrote {path}", highlight=False)


@app.command("metal")
def _metal(
    device: Annotated[
        list[str] | None,
        typer.Option(help="A GPU from m1 to m5-max, in place of the tables' own; several times."),
    ] = None,
    workload: Annotated[list[str] | None, typer.Option(help="Only this one; several times.")] = None,
    save: Annotated[bool, typer.Option(help="Write results.")] = True,
    output: Annotated[Path, typer.Option(help="Where results go.")] = RESULTS,
) -> None:
    """Modelled, not measured: Programs for Apple GPUs against the model of stock MLX's route."""
    try:
        found = metal.record(workload or workloads.names(), device or (), machine.typed_command())
    except ValueError as error:
        console.print(str(error), highlight=False, markup=False)
        raise typer.Exit(2) from None
    console.print(metal.markdown(found), highlight=False, markup=False, soft_wrap=True)
    if save:
        for path in metal.write(found, output):
            console.print(f"wrote {path}", highlight=False)


app.command("metal-accuracy")(metal_accuracy.command)
app.command("native")(native.command)


@app.command("workloads")
def _workloads(
    gflop: Annotated[float, typer.Option(help="Direct GFLOP that layers are cropped to.")] = 40.0,
) -> None:
    """The distinct layers of all workloads, cropped."""
    for layer in workloads.distinct(workloads.load_all(), gflop):
        text = f"{layer.name:45} {layer.kind:20} {layer.flops / 1e9:8.3g} GFLOP {layer.bytes / 1e6:7.3g} MB"
        console.print(f"{text} {layer.calls:5} calls in {len(layer.workloads)} workloads", highlight=False)


if __name__ == "__main__":
    app()
