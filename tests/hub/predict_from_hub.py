"""Run in a process of its own: predict by pushed ONNX files at one commit, without importing torch or transformers.

Usage: python predict_from_hub.py REPO_ID COMMIT IMAGE, with HF_ENDPOINT set. Prints the probabilities as JSON.
"""

import json
import sys

from huggingface_hub import snapshot_download

repo_id, commit, image = sys.argv[1:]
folder = snapshot_download(repo_id, revision=commit)
sys.path.insert(0, folder)

import mlcak_hf  # noqa: E402

assert mlcak_hf.__file__.startswith(folder)
(prediction,) = mlcak_hf.OnnxPredictor(folder).predict([image])
assert not {"torch", "transformers"} & set(sys.modules)
print(json.dumps(prediction.probabilities | prediction.findings))
