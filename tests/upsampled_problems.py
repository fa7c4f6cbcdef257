"""Hand-picked convolutions of upsampled inputs."""

from __future__ import annotations

from problems import CUBE, Problem, of

UPSAMPLED: dict[str, Problem] = {
    "doubled 1x3x3": of((1, 3, 8, 9, 32), (48, 1, 3, 3, 32), padding=(0, 1, 1), upsample=(1, 2, 2)),
    "doubled 3x3x3": of(
        (2, 4, 7, 6, 17),
        (33, *CUBE, 17),
        padding=((1, 0), 1, 1),
        upsample=(1, 2, 2),
        lead=1,
        bias=True,
        residual=True,
        activation="silu",
        modes=("edge", "reflect", "zeros"),
    ),
    "doubled, half": of(
        (1, 3, 7, 6, 16),
        (16, *CUBE, 16),
        padding=1,
        upsample=(1, 2, 2),
        bias=True,
        x_type="bfloat16",
        w_type="bfloat16",
        extra_type="bfloat16",
        layout="channels_first",
    ),
    "doubled, lopsided": of(
        (1, 2, 5, 6, 16), (16, 1, 3, 3, 16), padding=(0, (2, 0), (0, 3)), upsample=(1, 2, 2)
    ),
    "doubled, cropped": of(
        (1, 2, 6, 7, 8), (8, 1, 3, 3, 8), padding=(0, (-1, -2), (-3, 1)), upsample=(1, 2, 2)
    ),
    "doubled, reflected within pixels": of(
        (1, 2, 5, 6, 8), (8, 1, 3, 3, 8), padding=(0, 2, (3, 1)), upsample=(1, 2, 2), modes="reflect"
    ),
    "doubled one pixel": of((1, 1, 1, 1, 4), (4, 1, 3, 3, 4), padding=(0, 1, 1), upsample=(1, 2, 2)),
    "doubled one pixel, edge": of(
        (1, 1, 1, 1, 4), (4, 1, 3, 3, 4), padding=(0, 4, 5), upsample=(1, 2, 2), modes="edge"
    ),
    "doubled in time": of(
        (1, 3, 5, 5, 16), (16, *CUBE, 16), padding=((2, 0), 1, 1), upsample=2, lead=2, stride=(3, 1, 1)
    ),
    "doubled, nothing": of((0, 3, 5, 5, 4), (4, *CUBE, 4), padding=1, upsample=2),
    "doubled, no channels": of((1, 3, 5, 5, 0), (4, *CUBE, 0), padding=1, upsample=2, bias=True),
    "tripled": of((1, 3, 5, 4, 16), (16, *CUBE, 16), padding=1, upsample=(1, 3, 3), modes="edge"),
    "upsampled unevenly": of((1, 3, 5, 4, 5), (7, 2, 3, 4, 5), padding=2, upsample=(2, 1, 5), dilation=2),
    "upsampled, strided": of((1, 3, 5, 4, 5), (7, *CUBE, 5), padding=1, upsample=3, stride=(2, 2, 4)),
    "upsampled depthwise": of(
        (2, 3, 5, 6, 20), (20, *CUBE, 1), padding=1, upsample=(1, 2, 2), groups=20, modes="reflect"
    ),
    "upsampled large groups": of((1, 2, 5, 6, 80), (72, *CUBE, 40), padding=1, upsample=(1, 2, 2), groups=2),
    "upsampled pointwise": of((1, 3, 4, 5, 16), (24, 1, 1, 1, 16), upsample=(2, 2, 3), bias=True),
    "upsampled patches": of((1, 3, 4, 5, 6), (9, 2, 3, 2, 6), upsample=(1, 3, 2), stride=(2, 3, 2)),
    "upsampled temporal": of((1, 3, 4, 5, 16), (16, 3, 1, 1, 16), padding=((2, 0), 0, 0), upsample=(2, 1, 1)),
    "doubled 2-D": of((2, 9, 10, 24), (16, 3, 3, 24), padding=1, upsample=2),
    "doubled 1-D": of((2, 9, 6), (5, 4, 6), padding=((3, 1),), upsample=2, stride=3),
}
