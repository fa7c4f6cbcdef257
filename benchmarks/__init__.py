"""Benchmarks of mlx_conv3d: `python -m benchmarks --help`; what each figure means is in
benchmarks/README.md."""
