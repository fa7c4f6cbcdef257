"""Decodes a latent with the demo's video VAE, its rows spread over the ranks, and compares with one rank.

mlx.launch -n 4 --backend ring python examples/sharded_decode/main.py
"""

from __future__ import annotations

import argparse
import time

import mlx.core as mx

import mlx_conv3d
from mlx_conv3d import distributed
from mlx_conv3d.demo import CHECKPOINT
from mlx_conv3d.demo.model import SPACE_FACTOR, TIME_FACTOR, VideoVAE


def load_model() -> VideoVAE:
    model = VideoVAE()
    weights = mx.load(str(CHECKPOINT), format="safetensors")
    model.load_weights([(name, weight.astype(mx.float32)) for name, weight in weights.items()])
    mx.eval(model.parameters())
    return model


def make_latent(frames: int, width: int, height: int, channels: int) -> mx.array:
    """The same noise on every rank."""
    shape = (1, 1 + frames // TIME_FACTOR, height // SPACE_FACTOR, width // SPACE_FACTOR, channels)
    return mx.random.normal(shape, key=mx.random.key(0))


def decode_in_pieces(model: VideoVAE, latent: mx.array, axis: str) -> tuple[mx.array, float]:
    """This rank's piece of the video, and the seconds it took."""
    piece = distributed.shard(latent, axis)
    began = time.perf_counter()
    with distributed.patched(axis):
        video = model.decode(piece)
        mx.eval(video)
    return video, time.perf_counter() - began


def report_bytes(rank: int) -> None:
    counts = distributed.stats()
    print(f"rank {rank} sent, halo bytes a call:")
    for name, layer in counts["layers"].items():
        print(f"  {layer['calls']:3} x {layer['halo_bytes'] // layer['calls']:9,}  {name}")
    print(
        f"  {counts['halo_bytes']:,} of halos in all, {counts['agreement_bytes']:,} to agree on shapes, "
        f"{counts['gather_bytes']:,} to gather the video",
        flush=True,
    )


def report_difference(model: VideoVAE, latent: mx.array, video: mx.array) -> None:
    began = time.perf_counter()
    with mlx_conv3d.patched():
        alone = model.decode(latent)
        mx.eval(alone)
    seconds = time.perf_counter() - began
    difference = mx.linalg.norm(video - alone) / mx.linalg.norm(alone)
    print(f"one rank: {tuple(alone.shape)} in {seconds:.2f} s; relative difference {difference.item():.1e}")
    if not difference.item() < 1e-5:
        raise SystemExit("the decodes differ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axis", choices=("height", "width"), default="height", help="the axis in pieces")
    parser.add_argument("--frames", type=int, default=9, help="frames of the video, 1 plus a multiple of 4")
    parser.add_argument("--size", default="192x108", help="width and height, multiples of 4")
    options = parser.parse_args()
    width, height = (int(size) for size in options.size.split("x"))
    group = mx.distributed.init()
    model = load_model()
    latent = make_latent(options.frames, width, height, model.config.latent_channels)
    video, seconds = decode_in_pieces(model, latent, options.axis)
    print(f"rank {group.rank()} of {group.size()}: {tuple(video.shape)} in {seconds:.2f} s", flush=True)
    whole = distributed.gather(video, options.axis)
    mx.eval(whole)
    if group.rank() == min(1, group.size() - 1) and group.size() > 1:
        report_bytes(group.rank())
    if group.rank() == 0:
        report_difference(model, latent, whole)


if __name__ == "__main__":
    main()
