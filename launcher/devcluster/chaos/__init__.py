"""Breaking a run on purpose, again and again, and measuring what each fault cost: `launcher devcluster chaos`.

Faults and moments are drawn from a seed. Whatever strikes, the run has to come back, by itself or by `launcher resume`,
and its losses have to be those of a run that nothing disturbed.
"""

from launcher.devcluster.chaos.curves import differing_steps
from launcher.devcluster.chaos.draw import Strike, draw_strikes
from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.faults import FAULTS, choose_faults
from launcher.devcluster.chaos.report import ChaosReport, FaultCost
from launcher.devcluster.chaos.storm import Storm
from launcher.devcluster.chaos.target import ChaosTarget

__all__ = [
    "FAULTS",
    "ChaosFault",
    "ChaosReport",
    "ChaosTarget",
    "FaultCost",
    "Storm",
    "Strike",
    "choose_faults",
    "differing_steps",
    "draw_strikes",
]
