"""What image files say about their origin, as any reader of XMP sees it."""

import io
from xml.etree import ElementTree

from PIL import Image

from synthgen.dataset.encode import NAMESPACES, PROPERTIES, RDF


def read_origin(data: bytes) -> dict[str, str]:
    """The origin in an image file: tool, source_type, model, revision, prompt, seed, index; empty without a packet."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp", b"")
    if not packet:
        return {}
    found: dict[str, str] = {}
    for description in ElementTree.fromstring(packet.rstrip(b"\0 ").decode()).iter(f"{{{RDF}}}Description"):
        # RDF has two ways of writing a property; exiftool may convert one to the other.
        written = description.attrib | {child.tag: child.text or "" for child in description}
        for key, name in PROPERTIES.items():
            prefix, _, tag = key.partition(":")
            if (value := written.get(f"{{{NAMESPACES[prefix]}}}{tag}")) is not None:
                found[name] = value
    return found
