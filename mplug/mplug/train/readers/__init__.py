"""Readers of training data: every kind of file gives the same `Example`, in a seeded order entered anywhere.

`open_source` tells the kind by the path; `parts.py` reads what a run is given, one place or several with weights; a
`Mixture` draws from one source or several. Nothing here imports torch.
"""

from mplug.train.readers.example import TASK_FIELDS, Answer, Example
from mplug.train.readers.mixture import Draw, Mixture
from mplug.train.readers.opening import open_source
from mplug.train.readers.parts import Data, DataPart
from mplug.train.readers.source import Source

__all__ = ["TASK_FIELDS", "Answer", "Data", "DataPart", "Draw", "Example", "Mixture", "Source", "open_source"]
