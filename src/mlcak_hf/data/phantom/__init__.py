"""Synthetic chest radiographs in the layout of VinDr-CXR: the data set that the package carries with it.

They are drawn, not learnt: attenuation of trunk, lungs, bones and vessels is summed along each ray, findings are added
with known boxes, and readers disagree about them. They serve to try the whole pipeline, not to learn medicine from.
"""

from mlcak_hf.data.phantom.plan import DRAWN_FINDINGS, LARGE_FINDINGS, PREVALENCE, SMALL_FINDINGS
from mlcak_hf.data.phantom.render import Phantom, render_phantom
from mlcak_hf.data.phantom.writer import PhantomReport, write_phantoms

__all__ = [
    "DRAWN_FINDINGS",
    "LARGE_FINDINGS",
    "PREVALENCE",
    "SMALL_FINDINGS",
    "Phantom",
    "PhantomReport",
    "render_phantom",
    "write_phantoms",
]
