"""What "auto" means for the numbers of a model: bfloat16 where the GPU computes it natively, else float32.

Light, for every plan asks: the driver is asked without torch. float16 is never chosen: what overflows it would be lost.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

from schemas.config.section import AutoPrecision, Precision

NATIVE = 8  # of NVIDIA's compute capability: Ampere and later compute bfloat16
MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR


def precision_for(asked: AutoPrecision, device: str) -> Precision:
    """`asked`, or what "auto" means on this machine's `device`: auto, cpu, cuda, cuda:1 ..."""
    if asked != "auto":
        return asked
    majors = _majors(device)
    return "bfloat16" if majors and min(majors) >= NATIVE else "float32"


def on_gpu(device: str) -> bool:
    """Whether this machine has the GPU, or for "auto" and "cuda" any."""
    return bool(_majors(device))


def _majors(device: str) -> list[int]:
    majors, number = [] if device == "cpu" else capabilities(), device.partition(":")[2]
    if ":" in device:  # a device that is none is reported where it is used
        majors = majors[int(number) :][:1] if number.isdecimal() else []
    return majors


@cache
def capabilities() -> list[int]:
    """Major compute capability of each GPU that CUDA shows to this process; none where there is no driver."""
    with suppress(OSError, AttributeError):
        cuda = ctypes.CDLL("libcuda.so.1")
        count, device, major = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
            found = []
            for number in range(count.value):
                cuda.cuDeviceGet(ctypes.byref(device), number)
                cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
                found.append(major.value)
            return found
    return []
