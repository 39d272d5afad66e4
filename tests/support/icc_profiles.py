"""ICC profiles written by hand, with the published numbers (ICC.1:2022), and what they mean."""

import struct

import numpy as np

# Colorants relative to D50, as Apple's, Adobe's and HP's profiles have them.
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
# The same as (x, y) of red, green and blue; white is D65.
P3_XY = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_XY = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
SRGB_XY = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
D65_XY = (0.3127, 0.3290)
ADOBE_GAMMA = 2.19921875

# Linear sRGB of XYZ (IEC 61966-2-1).
XYZ_TO_SRGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


def numbers(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def srgb_curve():
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + numbers(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def srgb_table(entries=1024):
    encoded = np.linspace(0, 1, entries)
    return b"curv" + bytes(4) + struct.pack(f">I{entries}H", entries, *np.rint(to_linear(encoded) * 65535).astype(int))


def gamma_curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def profile(space, tags, *, version=2, pcs=b"XYZ ", kind=b"mntr"):
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"test", version << 24, kind, space, pcs)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + numbers(0.9642, 1, 0.8249) + bytes(48)
    return head + table + body


def rgb_profile(colorants, curve, version=4):
    white = {b"wtpt": b"XYZ " + bytes(4) + numbers(0.9642, 1, 0.8249)}
    xyz = {
        name: b"XYZ " + bytes(4) + numbers(*c) for name, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)
    }
    return profile(b"RGB ", white | xyz | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve), version=version)


def grey_profile(gamma):
    white = b"XYZ " + bytes(4) + numbers(0.9642, 1, 0.8249)
    return profile(b"GRAY", {b"wtpt": white, b"kTRC": gamma_curve(gamma)})


def cmyk_profile(lab):
    """A printer's profile whose table has two points a colorant: ``lab`` gives L, a, b of (c, m, y, k) of 0 or 1."""
    points = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    identity = struct.pack(">9I", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    table = b"mft2" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0) + identity + struct.pack(">HH", 2, 2)
    table += struct.pack(">2H", 0, 65535) * 4
    for point in points:
        lightness, a, b = lab(*point)
        table += struct.pack(">3H", round(lightness * 652.8), round((a + 128) * 256), round((b + 128) * 256))
    table += struct.pack(">2H", 0, 65535) * 3
    white = b"XYZ " + bytes(4) + numbers(0.9642, 1, 0.8249)
    return profile(b"CMYK", {b"wtpt": white, b"A2B0": table}, pcs=b"Lab ", kind=b"prtr")


def lut_profile(lab, also):
    """An RGB profile with a table of two points a channel beside a matrix and sRGB's curve."""
    identity = struct.pack(">9I", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    table = b"mft2" + bytes(4) + struct.pack(">BBBB", 3, 3, 2, 0) + identity + struct.pack(">HH", 2, 2)
    table += struct.pack(">2H", 0, 65535) * 3
    for point in [(r, g, b) for r in (0, 1) for g in (0, 1) for b in (0, 1)]:
        lightness, a, b = lab(*point)
        table += struct.pack(">3H", round(lightness * 652.8), round((a + 128) * 256), round((b + 128) * 256))
    table += struct.pack(">2H", 0, 65535) * 3
    xyz = {name: b"XYZ " + bytes(4) + numbers(*c) for name, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), also, strict=True)}
    tags = {b"wtpt": b"XYZ " + bytes(4) + numbers(0.9642, 1, 0.8249), b"A2B0": table} | xyz
    return profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), srgb_curve()), pcs=b"Lab ")


def to_linear(encoded):
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def to_encoded(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def matrix(primaries, white=D65_XY):
    """RGB to XYZ, from chromaticities (SMPTE RP 177)."""
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    return xyz * np.linalg.solve(xyz, np.array((white[0] / white[1], 1, (1 - white[0] - white[1]) / white[1])))


def in_srgb(pixels, primaries, linear):
    """What sRGB shows of uint8 pixels (..., 3) in an RGB space with white D65: levels, not rounded."""
    xyz = linear(np.asarray(pixels) / 255) @ matrix(primaries).T
    return to_encoded(xyz @ XYZ_TO_SRGB.T) * 255
