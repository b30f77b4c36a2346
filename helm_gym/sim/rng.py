"""Random draws inside kernels: SplitMix64 counters, one per named stream."""

from __future__ import annotations

import math

import numpy as np

from helm_gym.sim.compiled import inlined, kernel
from helm_gym.sim.layout import Array

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@inlined
def mix64(x: int) -> int:
    """Finaliser of SplitMix64: a bijection of 64-bit integers that looks random."""
    z = np.uint64(x)
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@inlined
def uniform(rng: Array, stream: int) -> float:
    """Next number of a stream, in the open interval (0, 1)."""
    rng[stream] += GOLDEN
    return (np.float64(mix64(rng[stream]) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@kernel
def normal_quantile(p: float) -> float:
    """Inverse of the standard normal distribution function (Wichura's AS 241, 1e-15 relative)."""
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        top = (((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r
            + 6.7265770927008700853e4) * r + 4.5921953931549871457e4) * r
            + 1.3731693765509461125e4) * r + 1.9715909503065514427e3) * r
            + 1.3314166789178437745e2) * r + 3.3871328727963666080e0)
        low = (((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r
            + 3.9307895800092710610e4) * r + 2.1213794301586595867e4) * r
            + 5.3941960214247511077e3) * r + 6.8718700749205790830e2) * r
            + 4.2313330701600911252e1) * r + 1.0)
        return q * top / low
    r = math.sqrt(-math.log(p if q < 0.0 else 1.0 - p))
    if r <= 5.0:
        r -= 1.6
        top = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r
            + 2.41780725177450611770e-1) * r + 1.27045825245236838258e0) * r
            + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
            + 4.63033784615654529590e0) * r + 1.42343711074968357734e0)
        low = (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r
            + 1.51986665636164571966e-2) * r + 1.48103976427480074590e-1) * r
            + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
            + 2.05319162663775882187e0) * r + 1.0)
    else:
        r -= 5.0
        top = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r
            + 1.24266094738807843860e-3) * r + 2.65321895265761230930e-2) * r
            + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
            + 5.46378491116411436990e0) * r + 6.65790464350110377720e0)
        low = (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r
            + 1.84631831751005468180e-5) * r + 7.86869131145613259100e-4) * r
            + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
            + 5.99832206555887937690e-1) * r + 1.0)
    return -top / low if q < 0.0 else top / low  # fmt: skip


@kernel
def normal_cdf(z: float) -> float:
    """Standard normal distribution function."""
    return 0.5 * math.erfc(-z * 0.7071067811865476)


@kernel
def unit_interval(rng: Array, stream: int, cv: float) -> float:
    """Positive draw of mean 1: exponential for ``cv`` 1, else Gamma (Marsaglia and Tsang 2000)."""
    if cv == 1.0:
        return -math.log(uniform(rng, stream))
    shape = 1.0 / (cv * cv)
    boosted = shape if shape >= 1.0 else shape + 1.0
    d = boosted - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        z = normal_quantile(uniform(rng, stream))
        v = (1.0 + c * z) ** 3
        if v <= 0.0:
            continue
        if math.log(uniform(rng, stream)) < 0.5 * z * z + d - d * v + d * math.log(v):
            break
    draw = d * v
    if shape < 1.0:
        draw *= uniform(rng, stream) ** (1.0 / shape)
    return draw / shape
