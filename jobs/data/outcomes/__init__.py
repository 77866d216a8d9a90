"""MIMIC's tables as notes with outcomes, by the rules of CORe and BEEP.

CORe: van Aken et al. 2021, https://aclanthology.org/2021.eacl-main.75. BEEP: Naik et al. 2022,
https://arxiv.org/abs/2111.08374.
"""
