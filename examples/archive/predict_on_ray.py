"""Predict an archive of radiographs on all machines of a Ray cluster, and write Parquet files.

    python examples/archive/predict_on_ray.py pneumonia-28 s3://archive/2024 s3://archive/predictions --actors 32

Without a cluster, Ray starts on this machine alone. The same command resumes: files that are in the output already
are not read again. Usage statistics, which Ray would send to its makers, are off.

Research use only: not a medical device, no basis for a diagnosis.
"""

from __future__ import annotations

import argparse
import os
import sys

from mlcak_hf import BatchPredictor
from mlcak_hf.prediction.batches import finished_files, list_files
from mlcak_hf.script import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, Hub id or name of a trained model, or an exported ONNX file")
    parser.add_argument("source", help="folder or bucket of radiographs")
    parser.add_argument("output", help="folder or bucket for Parquet files")
    parser.add_argument("--actors", type=int, default=2, help="processes that read and predict, on all machines")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each process, such as 0.25")
    parser.add_argument("--batch_size", type=int, default=16, help="radiographs in the model at once")
    parser.add_argument("--files_per_part", type=int, default=256, help="rows of a Parquet file: what a kill can lose")
    parser.add_argument("--on_suspect", choices=["warn", "refuse"], default="warn", help="as in mlcak predict")
    parser.add_argument("--operating_point", choices=["youden", "sensitivity", "specificity"], default="youden")
    args = parser.parse_args()
    options = {"on_suspect": args.on_suspect, "operating_point": args.operating_point}

    # Loaded here too: a model that is missing, or another than that of the output, ends the run before it starts.
    done = finished_files(args.output, BatchPredictor(args.model, **options).settings)
    files = [file for file in list_files(args.source) if file not in done]
    print(f"{len(files)} radiographs to predict, {len(done)} done before")
    if not files:
        return 0
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(include_dashboard=False)
    parts = -(-len(files) // args.files_per_part)
    ray.data.from_items([{"file": file} for file in files], override_num_blocks=parts).map_batches(
        BatchPredictor,
        fn_constructor_args=(args.model,),
        fn_constructor_kwargs=options,
        compute=ray.data.ActorPoolStrategy(size=args.actors),
        num_cpus=1,
        num_gpus=args.gpus,
        batch_size=args.batch_size,
        batch_format="pyarrow",
    ).write_parquet(
        args.output,
        mode="append",
        concurrency=max(1, args.actors // 8),
        ray_remote_args={"num_cpus": 0},  # where actors take every CPU, none is left to write
    )
    print(f"Predictions: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
