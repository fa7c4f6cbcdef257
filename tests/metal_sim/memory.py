"""The memory of a Program while it runs: one file per buffer and one for its shadow flags."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MetalSimError
from .hazards import Touched
from .launch import Storage
from .program import Buffer, Program, View

INITIALISED, LOADED, STORED = 1, 2, 4
_UNDEFINED = 0xFF  # NaN in every floating type

Array = NDArray[Any]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's type for a buffer's dtype; bfloat16 is its bits."""
    return np.dtype(np.uint16 if name == "bfloat16" else name)


def bfloat16_bits(x: Array) -> NDArray[np.uint16]:
    """float32 values rounded to the nearest bfloat16 (ties to even), as bits. NaN is not kept."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bfloat16_floats(bits: Array) -> NDArray[np.float32]:
    """float32 values of bfloat16 bits."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _open(path: Path, nbytes: int) -> NDArray[np.uint8]:
    with path.open("wb") as f:
        f.truncate(nbytes)
    return np.memmap(path, np.uint8, "r+", shape=(nbytes,)) if nbytes else np.empty(0, np.uint8)


class Memory:
    """Creates the buffers of a Program, in shared memory where there is some; use as a context manager."""

    def __init__(self, program: Program, inputs: Mapping[str, Array]):
        shm = "/dev/shm"
        self._dir = Path(tempfile.mkdtemp(prefix="metal-sim-", dir=shm if os.access(shm, os.W_OK) else None))
        self.data: dict[str, NDArray[np.uint8]] = {}
        self.flags: dict[str, NDArray[np.uint8]] = {}
        self.storages: dict[str, Storage] = {}
        try:
            for k, b in enumerate(program.buffers):
                self._create(k, b, inputs)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees all files."""
        self.data.clear()
        self.flags.clear()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _create(self, k: int, b: Buffer, inputs: Mapping[str, Array]) -> None:
        paths = self._dir / f"{k}.data", self._dir / f"{k}.flags"
        self.data[b.name], self.flags[b.name] = (_open(p, b.nbytes) for p in paths)
        self.storages[b.name] = Storage(b.name, *paths, b.nbytes, b.role != "input")
        if b.role != "input":
            self.data[b.name][:] = _UNDEFINED
            return
        if b.name not in inputs:
            raise MetalSimError(f"no array for the input '{b.name}'")
        raw = np.ascontiguousarray(inputs[b.name]).reshape(-1).view(np.uint8)
        if raw.size != b.nbytes:
            raise MetalSimError(f"the array for '{b.name}' has {raw.size} bytes, the buffer {b.nbytes}")
        self.data[b.name][:] = raw
        self.flags[b.name][:] = INITIALISED

    def begin_step(self, discards: tuple[str, ...]) -> None:
        """Forgets who touched what in the last step, and the content of what is discarded."""
        for name in discards:
            self.flags[name][:] = 0
            self.data[name][:] = _UNDEFINED
        for flags in self.flags.values():
            np.bitwise_and(flags, INITIALISED, out=flags)

    def touched(self, step: int) -> Touched:
        """What the step that ran last loaded and stored."""
        t = Touched(step)
        for name, flags in self.flags.items():
            for bit, masks in ((LOADED, t.loaded), (STORED, t.stored)):
                hit = flags & bit
                if hit.any():
                    masks[name] = np.packbits(hit != 0)
        return t

    def unwritten(self, name: str) -> tuple[int, int]:
        """How many bytes were never written, and the first of them."""
        missing = self.flags[name] & INITIALISED == 0
        return int(missing.sum()), int(missing.argmax()) if missing.size else 0

    def output(self, b: Buffer) -> Array:
        """A copy of a buffer in its dtype and shape."""
        whole = np.array(self.data[b.name]).view(numpy_dtype(b.dtype))
        return whole.reshape(b.shape) if b.shape else whole

    # ---- views, for stock steps

    def _window(self, raw: NDArray[np.uint8], v: View, itemsize: int) -> Array:
        """`raw` (data or flags) seen through a view, one more axis of `itemsize` bytes."""
        strides = v.strides or tuple(int(np.prod(v.shape[k + 1 :])) for k in range(len(v.shape)))
        low = sum(min(0, s * (n - 1)) for s, n in zip(strides, v.shape, strict=True)) * itemsize + v.offset
        high = sum(max(0, s * (n - 1)) for s, n in zip(strides, v.shape, strict=True)) * itemsize + v.offset
        if 0 not in v.shape and (low < 0 or high + itemsize > raw.size):
            raise MetalSimError(f"a view reaches outside buffer '{v.buffer}'")
        byte_strides = (*(s * itemsize for s in strides), 1)
        return np.lib.stride_tricks.as_strided(raw[v.offset :], (*v.shape, itemsize), byte_strides)

    def load(self, v: View) -> tuple[Array, bool]:
        """A copy of a view, and whether all of it had been written; marks it as loaded."""
        dtype = numpy_dtype(v.dtype)
        flags = self._window(self.flags[v.buffer], v, dtype.itemsize)
        initialised = bool(np.all(flags & INITIALISED))
        flags |= LOADED
        data = np.ascontiguousarray(self._window(self.data[v.buffer], v, dtype.itemsize))
        return data.view(dtype)[..., 0], initialised

    def store(self, v: View, value: Array) -> None:
        """Writes a view and marks it as stored."""
        dtype = numpy_dtype(v.dtype)
        value = np.ascontiguousarray(value, dtype)
        if value.shape != v.shape:
            raise MetalSimError(f"a stock step gave shape {value.shape} for a view of shape {v.shape}")
        self._window(self.data[v.buffer], v, dtype.itemsize)[...] = value[..., None].view(np.uint8)
        self._window(self.flags[v.buffer], v, dtype.itemsize)[...] |= INITIALISED | STORED
