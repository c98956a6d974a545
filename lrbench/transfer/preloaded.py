"""Imports of every module that jobs need, for the process from which workers are forked. None of them initialises CUDA.

No garbage is collected meanwhile, and later collections skip what was imported: visiting it took 3 % of the processor time of
`lrbench run quick`.
"""

import gc

gc.disable()

import pandas  # noqa: E402, F401
import pyarrow.parquet  # noqa: E402, F401
import timm  # noqa: E402, F401

import lrbench.pretraining.segments  # noqa: E402
import lrbench.transfer.cell  # noqa: E402, F401

gc.freeze()
gc.enable()
