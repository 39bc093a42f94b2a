"""Write the reference, ``docs/reference/*.md``, from the code: ``make reference``."""

import argparse
from pathlib import Path

from checks import ROOT
from pages import pages

parser = argparse.ArgumentParser(prog="python docs/generate", description=__doc__)
parser.add_argument("--out", type=Path, default=ROOT / "docs/reference", help="folder of the pages")
out = parser.parse_args().out
out.mkdir(parents=True, exist_ok=True)
for name, text in pages().items():
    (out / name).write_text(text)
