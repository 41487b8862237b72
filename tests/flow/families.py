"""One path of every family, and γ of both, for tests."""

from __future__ import annotations

from omatg_ray.flow.interpolant import (
    EncoderDecoder,
    FieldPath,
    Linear,
    Mirror,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)
from omatg_ray.flow.time_functions import (
    ConstantTau,
    CosineTau,
    EncoderDecoderGamma,
    Gamma,
    LinearTau,
    SqrtGamma,
)

TRAINABLE: dict[str, FieldPath] = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "encoder_decoder": EncoderDecoder(switch_time=0.6, power=2.0),
    "mirror": Mirror(),
}
DIFFUSION: dict[str, FieldPath] = {
    "vp_constant": VariancePreserving(schedule=ConstantTau()),
    "vp_linear": VariancePreserving(schedule=LinearTau(beta_min=0.1, beta_max=20.0)),
    "vp_cosine": VariancePreserving(schedule=CosineTau(offset=0.008)),
    "ve": VarianceExploding(sigma_min=0.005, sigma_max=0.5),
}
FAMILIES = TRAINABLE | DIFFUSION
GAMMAS: dict[str, Gamma] = {
    "sqrt": SqrtGamma(a=0.3),
    "encoder_decoder": EncoderDecoderGamma(a=0.7, switch_time=0.6, power=2.0),
}
