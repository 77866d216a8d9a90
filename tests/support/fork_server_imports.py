"""What the process imports that ranks are forked from (`forked_ranks`). It says nothing and starts no thread."""

import gc
import importlib
import logging
import warnings
from importlib.util import find_spec
from pkgutil import iter_modules

from jobs import kinds

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
