"""What the process imports that ranks are forked from (`forked_ranks`). It says nothing, starts no thread, sees no GPU.

CUDA cannot be used in a process whose parent has begun to use it, and bitsandbytes does when it is imported. What is
forked has its own environment; ranks that use a GPU are not forked (tests/gpu).
"""

import gc
import importlib
import logging
import os
import warnings
from importlib.util import find_spec
from pkgutil import iter_modules

from jobs import kinds

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch counts GPUs without beginning to use one
os.environ["CUDA_VISIBLE_DEVICES"] = ""
gc.disable()  # until all is imported: modules are no garbage
logging.disable(logging.WARNING)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for module in iter_modules(kinds.__path__, "jobs.kinds."):
        importlib.import_module(module.name)
    if find_spec("deepspeed"):  # accelerate imports it in all ranks
        importlib.import_module("deepspeed")
logging.disable(logging.NOTSET)
gc.freeze()
gc.enable()
