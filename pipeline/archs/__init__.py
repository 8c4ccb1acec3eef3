"""Architectures, x_BD -> h_BTH, by the word that names them in a job's configuration."""

from pipeline.archs.cgc import CGC
from pipeline.archs.ple import PLE

ARCHS: dict[str, type[CGC] | type[PLE]] = {"cgc": CGC, "ple": PLE}
