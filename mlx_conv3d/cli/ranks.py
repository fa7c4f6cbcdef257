"""`mlx-conv3d ranks`: what decoding on several Macs would take, by the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlx_conv3d.cli.mistakes import choose, told

if TYPE_CHECKING:
    from mlx_conv3d.distributed.decoders import Decoder
    from mlx_conv3d.distributed.scaling import Link


def parse_ranks(text: str) -> list[int]:
    try:
        return [int(count) for count in text.split(",")]
    except ValueError:
        raise ValueError(f"--ranks must look like 1,2,4, got {text!r}") from None


def table_of(decoder: Decoder, ranks: list[int], links: list[Link], device: str, algorithm: str) -> Table:
    from mlx_conv3d.distributed.scaling import estimates

    table = Table(title=f"{decoder.title}: modelled, rows of the picture on each rank")
    for heading in ("ranks", "memory GB\nper rank", "halo sent GB\nper rank"):
        table.add_column(heading, justify="right")
    columns = []
    for link in links:
        table.add_column(f"{link.title}\ns, times faster, s exposed", justify="right")
        columns.append(estimates(decoder, ranks, link, device=device, algorithm=algorithm))
    alone = estimates(decoder, [1], links[0], device=device, algorithm=algorithm)[0].seconds
    for row in zip(*columns, strict=True):
        cells = [f"{one.seconds:.2f}  {alone / one.seconds:4.2f}  {one.exposed:6.2f}" for one in row]
        first = row[0]
        table.add_row(str(first.ranks), f"{first.memory / 1e9:.2f}", f"{first.halo_bytes / 1e9:.2f}", *cells)
    return table


def report(model: str, device: str, ranks: str, link: str, algorithm: str) -> None:
    from mlx_conv3d.distributed.decoders import DECODERS
    from mlx_conv3d.distributed.scaling import LINKS

    counts = parse_ranks(ranks)
    links = [LINKS[name] for name in choose("--link", link, list(LINKS))]
    console = Console()
    for name in choose("MODEL", model, list(DECODERS)):
        console.print(table_of(DECODERS[name](), counts, links, device, algorithm))
    console.print(
        f"Modelled for a GPU {device}, algorithm {algorithm}; nothing here was measured. Convolutions alone, bfloat16, "
        "call lists scaled from those traced at other sizes. Halos travel while the interior is convolved; what is "
        "exposed is waiting that nothing hides. Formulas: docs/distributed.md."
    )
    for one in links:
        console.print(
            f"{one.title}: {one.bandwidth / 1e9:.2f} GB/s each way, {one.latency * 1e6:.0f} us. {one.source}"
        )


def ranks(
    model: Annotated[
        str, typer.Argument(help="wan2.1 (720p), wan2.2 (720p) or ltx2 (1080p); all of them by default.")
    ] = "",
    device: Annotated[str, typer.Option(help="The GPU of each Mac, from m1 to m5-max.")] = "m3-ultra",
    ranks: Annotated[str, typer.Option(help="Numbers of Macs, like 1,2,4.")] = "1,2,4,8",
    link: Annotated[str, typer.Option(help="tb4, tb5, 10gbe or 1gbe, or some of them; all by default.")] = "",
    algorithm: Annotated[
        str, typer.Option(help="auto, or stock for MLX's own kernels, which is what Macs run now.")
    ] = "auto",
) -> None:
    """Print a model of a decoder's time and memory per rank on several Macs. Nothing is computed or measured."""
    with told():
        report(model, device, ranks, link, algorithm)
