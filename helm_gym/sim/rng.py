"""Random draws inside kernels: SplitMix64 counters, one per named stream."""

from __future__ import annotations

import math

import numpy as np

from helm_gym.sim.compiled import inlined, kernel, outlined
from helm_gym.sim.layout import Array

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BELOW_ONE = 1.0 - 2.0**-53
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@inlined
def mix64(x: np.uint64) -> np.uint64:
    """Finaliser of SplitMix64: a bijection of 64-bit integers that looks random."""
    z = np.uint64(x)
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@inlined
def uniform(rng: Array, stream: int) -> float:
    """Next number of a stream, in the open interval (0, 1)."""
    rng[stream] += GOLDEN
    number = (np.float64(mix64(rng[stream]) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
    return min(number, BELOW_ONE)  # one draw of 2**53 rounds up to 1


# Wichura (1988), algorithm AS 241, PPND16: numerator and denominator, highest power first.
CENTRE = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
TAIL = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
FAR_TAIL = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)


@inlined
def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], r: float) -> float:
    top, low = 0.0, 0.0
    for k in range(8):
        top = top * r + coefficients[0][k]
        low = low * r + coefficients[1][k]
    return top / low


@outlined
def normal_quantile(p: float) -> float:
    """Inverse of the standard normal distribution function, to 1e-15 relative (AS 241)."""
    q = p - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(CENTRE, 0.180625 - q * q)
    r = math.sqrt(-math.log(p if q < 0.0 else 1.0 - p))
    z = _ratio(TAIL, r - 1.6) if r <= 5.0 else _ratio(FAR_TAIL, r - 5.0)
    return -z if q < 0.0 else z


@kernel
def normal_cdf(z: float) -> float:
    """Standard normal distribution function."""
    return 0.5 * math.erfc(-z * 0.7071067811865476)


@outlined
def unit_interval(rng: Array, stream: int, cv: float) -> float:
    """Positive draw of mean 1: exponential if ``cv`` is 1, else Gamma (Marsaglia-Tsang)."""
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
