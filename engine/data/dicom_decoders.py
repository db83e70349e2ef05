"""Compressed DICOM frames through imagecodecs, as a plugin of pydicom's decoders. Torch-free.

GDCM ends the whole process on damaged frames (abort or segmentation fault on one of some sixty), so it is compared with
(``bench.readers``) and not used. pydicom asks a plugin module for ``DECODER_DEPENDENCIES`` and ``is_available``.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner

from engine.data.picture_headers import jpeg_colours

PLUGIN = "imagecodecs"
JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
HTJ2K = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
DECODER_DEPENDENCIES = {syntax: (PLUGIN,) for syntax in (*JPEG, *uid.JPEGLSTransferSyntaxes, *JPEG_2000, *HTJ2K)}


def is_available(syntax: str) -> bool:
    """Return whether frames of this transfer syntax are decoded here."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """Return one frame's samples, pixel by pixel, in the smallest type that holds them; tells ``runner`` which.

    JPEG is not brought from YCbCr to RGB here, but by pydicom where the runner says so: by the file's tags, unless the
    frame itself says otherwise. The tags may be those from before it was compressed.
    """
    syntax, is_colour = runner.transfer_syntax, runner.samples_per_pixel > 1
    if syntax in JPEG:
        stored = "RGB" if is_colour else None  # the same in and out: no conversion
        samples = imagecodecs.jpeg8_decode(frame, colorspace=stored, outcolorspace=stored)
        told = jpeg_colours(frame) if samples.dtype == np.uint8 and samples.shape[2:] == (3,) else None
        if told is not None:
            said = PhotometricInterpretation.RGB if told == "RGB" else PhotometricInterpretation.YBR_FULL
            runner.set_option("photometric_interpretation", said)
    elif syntax in uid.JPEGLSTransferSyntaxes:
        samples = imagecodecs.jpegls_decode(frame)
    elif syntax in HTJ2K:
        samples = imagecodecs.htj2k_decode(frame)
    else:
        samples = imagecodecs.jpeg2k_decode(frame)
    ybr = (PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT)
    if syntax in (*JPEG_2000, *HTJ2K) and runner.photometric_interpretation in ybr:  # undone while decoding
        runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    samples = _signed(samples, runner)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    if is_colour:
        runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(samples).tobytes()


def _signed(samples: np.ndarray, runner: DecodeRunner) -> np.ndarray:
    """Return signed numbers that a frame holds without their sign, with the sign of their stored bits.

    pydicom goes by the bits that the frame announces, which may be those allocated: then the sign is not the highest.
    """
    spare = 8 * samples.dtype.itemsize - runner.bits_stored
    if samples.dtype.kind != "u" or not runner.pixel_representation or spare <= 0:
        return samples
    return (samples << spare).view(f"i{samples.dtype.itemsize}") >> spare


def add_to_pydicom() -> None:
    """Make every decoder of a compressed syntax know this one."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))


add_to_pydicom()
