"""Run in a process of its own, as on a machine without this package: load a pushed twin by plain transformers.

Usage: python load_a_twin.py REPO_ID COMMIT IMAGE, with HF_ENDPOINT set. Prints the probabilities as JSON.
"""

import json
import sys

from transformers import pipeline

repo_id, commit, image = sys.argv[1:]
for name in ("mlcak_hf", "pydicom", "datasets", "torchvision"):
    sys.modules[name] = None  # makes an import fail as if nothing were installed

classifier = pipeline("image-classification", model=repo_id, revision=commit)
print(json.dumps({row["label"]: row["score"] for row in classifier(image, top_k=50)}))
