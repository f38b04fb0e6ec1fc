"""The names of the four masking modes, after MtM (Hurwitz et al. 2024)."""

from typing import Literal, get_args

Mode = Literal["temporal", "neuron", "intra_region", "inter_region"]
MODES: tuple[Mode, ...] = get_args(Mode)
