"""`launcher doctor`: what a site will do with runs, judged before the first one is submitted.

`launcher.site.limits` asks Slurm; `preemption` and `limits` judge its answers; `machine` looks at this machine.
"""

from launcher.doctor.examine import Examination, examine
from launcher.doctor.finding import Finding

__all__ = ["Examination", "Finding", "examine"]
