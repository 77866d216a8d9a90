"""What the process imports that ranks are forked from (`tests.forked`). It says nothing and starts no thread."""

import gc
import importlib
import logging
import warnings
from importlib.util import find_spec

gc.disable()  # until all is imported: modules are no garbage
logging.disable(logging.WARNING)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("jobs.cpt", "jobs.sft", "jobs.classify", "deepspeed"):  # accelerate imports the last one in all ranks
        if find_spec(name):
            importlib.import_module(name)
logging.disable(logging.NOTSET)
gc.freeze()
gc.enable()
