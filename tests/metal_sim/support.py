"""For the tests that use the simulator: where it cannot run they are skipped, or fail if that was asked for."""

from __future__ import annotations

import os

import pytest

from .toolchain import unavailable_reason

REQUIRED = os.environ.get("MLX_CONV3D_REQUIRE_METAL_SIM") == "1"

# Under MLX_CONV3D_REQUIRE_METAL_SIM=1 nothing is skipped: the first use raises MetalSimError with the reason.
needs_metal_sim = pytest.mark.skipif(
    bool(unavailable_reason()) and not REQUIRED, reason=unavailable_reason() or "the Metal simulator is there"
)
