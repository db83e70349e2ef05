"""The device that a process takes: refused by name, and deterministic where it is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from engine.errors import UserError
from engine.models.execution import resolve_device

WITH_A_GPU = """
import os, torch
torch.cuda.is_available = lambda: True
from engine.models.execution import resolve_device
print(resolve_device("cpu").type, torch.are_deterministic_algorithms_enabled())
print(resolve_device("auto").type, torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
"""


def test_a_process_with_a_gpu_computes_with_deterministic_kernels_and_one_without_is_left_alone():
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_GPU], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["cpu False", "cuda True False", ":4096:8"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is asked for")
def test_a_gpu_that_is_not_there_is_refused_by_name():
    with pytest.raises(UserError, match="sees no CUDA GPU"):
        resolve_device("cuda")
