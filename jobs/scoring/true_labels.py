"""True labels as an array: what reads tables of labels shares it with what scores predictions."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

TrueLabels: TypeAlias = NDArray[np.int64]
"""The class of each note; multilabel: a row of 0 and 1 for each, with a column for each class."""
