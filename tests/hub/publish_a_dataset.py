"""Run in a process of its own: push a prepared dataset, first to a public repository, then to a new one, twice.

Usage: python publish_a_dataset.py FOLDER PUBLIC_REPO_ID NEW_REPO_ID, with HF_ENDPOINT set.
"""

import sys

import pytest

from mlcak_hf.deployment.publish import push_dataset_to_hub
from mlcak_hf.errors import DeploymentError

folder, public, new = sys.argv[1:]
with pytest.raises(DeploymentError, match="I will not share access"):
    push_dataset_to_hub(folder, new, i_may_share_this_data=False)
with pytest.raises(DeploymentError, match=f"{public} is public, and nothing was uploaded"):
    push_dataset_to_hub(folder, public, i_may_share_this_data=True)
for _ in range(2):  # the second time, the repository is there
    push_dataset_to_hub(folder, new, i_may_share_this_data=True)
