#!/bin/bash
# A Croissant description names its archives by paths relative to itself, each with its SHA-256.  One would guess that
# two datasets in two folders, whose archives have the same relative name and other contents, are read each from its
# own archive.  mlcroissant unpacks an archive once for each relative name, into a cache that other datasets and later
# processes share: the second dataset gives the records of the first, without a word, although the SHA-256 of its
# archive differs.  So does a dataset whose archive and description were replaced by a new version.  A CROISSANT_CACHE
# for each dataset gives the right records.
# mlcroissant 1.1.1; Python 3.11; 2026-11-28.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlcroissant==1.1.1
cat > "$folder/make.py" <<'PYTHON'
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

for name in ("first", "second"):
    folder = Path(sys.argv[1]) / name
    (folder / "data").mkdir(parents=True)
    content = f"from the {name} dataset".encode()
    with tarfile.open(folder / "data" / "train.tar", "w") as tar:
        entry = tarfile.TarInfo("0.txt")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    context = {
        "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/", "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo", "recordSet": "cr:recordSet",
        "field": "cr:field", "source": "cr:source", "extract": "cr:extract", "fileSet": "cr:fileSet",
        "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "includes": "cr:includes",
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    }
    source = {"fileSet": {"@id": "texts"}, "extract": {"fileProperty": "content"}}
    (folder / "croissant.json").write_text(json.dumps({
        "@context": context, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0", "name": name,
        "description": name, "license": "CC0-1.0", "url": "https://example.org", "version": "1.0.0",
        "datePublished": "2026-11-28", "creator": {"@type": "Person", "name": "nobody"}, "citeAs": name,
        "distribution": [
            {"@type": "cr:FileObject", "@id": "tar", "name": "tar", "contentUrl": "data/train.tar",
             "encodingFormat": "application/x-tar",
             "sha256": hashlib.sha256((folder / "data" / "train.tar").read_bytes()).hexdigest()},
            {"@type": "cr:FileSet", "@id": "texts", "name": "texts", "containedIn": {"@id": "tar"},
             "encodingFormat": "text/plain", "includes": "*.txt"},
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": [
            {"@type": "cr:Field", "@id": "rows/text", "name": "text", "dataType": "sc:Text", "source": source}]}],
    }))
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import sys
from importlib.metadata import version

import mlcroissant

(row,) = mlcroissant.Dataset(f"{sys.argv[1]}/croissant.json").records("rows")
print(f"mlcroissant {version('mlcroissant')}, {sys.argv[1].rpartition('/')[2]}: {row['rows/text']}", flush=True)
PYTHON
python="$folder/venv/bin/python"
"$python" "$folder/make.py" "$folder"
echo "one cache:"
for name in first second; do
    CROISSANT_CACHE="$folder/cache" "$python" "$folder/read.py" "$folder/$name" 2>/dev/null | tee -a "$folder/shared"
done
echo "a cache each:"
for name in first second; do
    CROISSANT_CACHE="$folder/cache-$name" "$python" "$folder/read.py" "$folder/$name" 2>/dev/null | tee -a "$folder/own"
done
[ "$(grep -c 'from the first dataset' "$folder/shared")" = 2 ]
grep -q 'second: .*from the second dataset' "$folder/own"
