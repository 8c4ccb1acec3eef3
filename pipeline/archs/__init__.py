"""Architectures, x_BD -> h_BTH, by the word that names them in a job's configuration."""

from pipeline.archs.arch import Arch
from pipeline.archs.bottoms import Asymmetric, Customized, SharedBottom, SingleTask
from pipeline.archs.cgc import CGC
from pipeline.archs.moe import MLMMoE, MMoE, MoE
from pipeline.archs.ple import PLE
from pipeline.archs.stitch import CrossStitch, Sluice

ARCHS: dict[str, type[Arch]] = {
    "single_task": SingleTask,
    "shared_bottom": SharedBottom,
    "asymmetric": Asymmetric,
    "customized": Customized,
    "moe": MoE,
    "mmoe": MMoE,
    "cgc": CGC,
    "cross_stitch": CrossStitch,
    "sluice": Sluice,
    "ml_mmoe": MLMMoE,
    "ple": PLE,
}
