"""Image files that say where they come from: PNG, JPEG or WebP with an XMP packet.

The packet follows the IPTC Photo Metadata Standard 2025.1 (https://iptc.org/std/photometadata/specification),
whose properties for generated images name the model, its version and the prompt.  Seed and index are in a namespace of
our own.  With the same libraries, the same image and origin give the same bytes.  Images that are drawn by rules alone,
without a trained model, say only that: ``PLAIN_PACKET``.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from synthgen.common.errors import SynthgenError

NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "synthgen": "urn:synthgen:image:1#",
}
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# Of https://cv.iptc.org/newscodes/digitalsourcetype: made by a model trained on samples, or by an algorithm alone.
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
# Property of the packet -> its name in ``values`` of xmp_packet.
PROPERTIES = {
    "xmp:CreatorTool": "tool",
    "Iptc4xmpExt:DigitalSourceType": "source_type",
    "Iptc4xmpExt:AISystemUsed": "model",
    "Iptc4xmpExt:AISystemVersionUsed": "revision",
    "Iptc4xmpExt:AIPromptInformation": "prompt",
    "synthgen:seed": "seed",
    "synthgen:index": "index",
}

# The same for every such image and stored a million times: without unused namespaces, and without the packet's
# wrapper, by which programs find it that cannot read PNG (XMP Specification, part 1, 7.3: optional).
PLAIN_PACKET = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""'
    f' xmlns:xmp="{NAMESPACES["xmp"]}" xmlns:Iptc4xmpExt="{NAMESPACES["Iptc4xmpExt"]}"'
    f' xmp:CreatorTool="synthgen" Iptc4xmpExt:DigitalSourceType="{DRAWN}"/></rdf:RDF></x:xmpmeta>'
).encode()
PNG_KEYWORD = "XML:com.adobe.xmp"  # of the text chunk that contains a packet (XMP Specification, part 3, 1.1.5)

_LONGEST_IN_JPEG = 65502  # bytes of a packet in one segment (XMP Specification, part 3, 1.1.3)
# Everything except the characters of XML 1.0, production 2.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an image comes from."""

    prompt: str
    model: str  # its name
    revision: str  # commit or "sha256:..." of the model's files
    seed: str  # decimal, 64 bits
    index: int  # of the sample in its set


def encode_image(image: NDArray[np.uint8], *, image_format: str, quality: int, origin: Origin) -> bytes:
    """An image file that contains its origin.

    ``image`` is uint8 [height, width, 3]; ``image_format`` is png, jpg or webp; ``quality``, 1 to 100,
    applies to jpg and webp.  Raises SynthgenError if the prompt is too long for a JPEG.
    """
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    packet = xmp_packet(origin)
    picture, file = Image.fromarray(image), io.BytesIO()
    match image_format:
        case "png":
            text = PngImagePlugin.PngInfo()
            text.add_itxt(PNG_KEYWORD, packet.decode())
            # Of zlib's levels, 3 makes photographs 8% larger than the default, 6, in under half the time,
            # and images of 32 pixels no larger.
            picture.save(file, "png", pnginfo=text, compress_level=3)
        case "jpg":
            if len(packet) > _LONGEST_IN_JPEG:
                raise SynthgenError(f"prompt of {len(origin.prompt)} characters: too long for a JPEG; write a PNG")
            # High quality keeps colours at full resolution (4:4:4), otherwise 4:2:0.  Optimised Huffman tables would
            # save 4 to 8% for 1 ms per image, but then Pillow fails on noise, whose file outgrows its buffer.
            colours = "4:4:4" if quality >= 90 else "4:2:0"
            picture.save(file, "jpeg", quality=quality, subsampling=colours, xmp=packet)
        case "webp":
            picture.save(file, "webp", quality=quality, xmp=packet)
        case _:
            raise AssertionError(image_format)
    return file.getvalue()


def xmp_packet(origin: Origin) -> bytes:
    """The XMP packet of an image, without padding; characters that XML cannot hold become U+FFFD."""
    values = {
        "tool": "synthgen",
        "source_type": GENERATED,
        "prompt": origin.prompt,
        "model": origin.model,
        "revision": origin.revision,
        "seed": origin.seed,
        "index": str(origin.index),
    }
    values = {name: _NO_XML.sub("\ufffd", value) for name, value in values.items()}
    names = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    properties = "".join(f" {key}={quoteattr(values[name])}" for key, name in PROPERTIES.items())
    # Viewers that do not know IPTC properties show dc:description.
    description = f'<rdf:li xml:lang="x-default">{escape(values["prompt"], {chr(13): "&#13;"})}</rdf:li>'
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""{names}{properties}>'
        f"<dc:description><rdf:Alt>{description}</rdf:Alt></dc:description>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
