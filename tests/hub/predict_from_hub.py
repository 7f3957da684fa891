"""Run in a process of its own, without torch and transformers: predict by pushed ONNX files at one commit.

Usage: python predict_from_hub.py REPO_ID COMMIT IMAGE, with HF_ENDPOINT set. Prints the probabilities as JSON.
"""

import json
import sys

from huggingface_hub import snapshot_download

repo_id, commit, image = sys.argv[1:]
folder = snapshot_download(repo_id, revision=commit)
for name in ("torch", "transformers"):
    sys.modules[name] = None  # makes an import fail as if nothing were installed
for name in [name for name in sys.modules if name.split(".")[0] == "mlcak_hf"]:
    del sys.modules[name]
sys.path.insert(0, folder)

from mlcak_hf import OnnxPredictor, __file__  # noqa: E402

assert __file__.startswith(folder), __file__
(prediction,) = OnnxPredictor(folder).predict([image])
print(json.dumps(prediction.probabilities | prediction.findings))
