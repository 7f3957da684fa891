#!/usr/bin/env bash
# Everything on synthetic radiographs; `make demo` runs it. Each command is printed first, so that it can be repeated by hand.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${1:-demo}"
workers="${WORKERS:-$(getconf _NPROCESSORS_ONLN)}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
quiet=()
if [ ! -t 2 ]; then  # no progress bars in a log file
  export HF_DATASETS_DISABLE_PROGRESS_BARS=1 HF_HUB_DISABLE_PROGRESS_BARS=1
  quiet=(--disable_tqdm true)
fi
start=$SECONDS

step() { printf '\n\033[1m== %s (%d s)\033[0m\n' "$1" "$((SECONDS - start))"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
train() { run accelerate launch -q --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "$@"; }

mkdir -p "$out"
step "1/6  Synthetic radiographs with VinDr-CXR's layout"
# More of the findings that a tiny model learns in minutes, fewer of those that take it hours.
run mlcak phantom "$out/phantoms" --train 1300 --test 500 --size 256 --workers "$workers" --overwrite \
  --prevalence "Cardiomegaly=0.28" --prevalence "Pleural effusion=0.20" --prevalence "Consolidation=0.08" \
  --prevalence "Aortic enlargement=0.05" --prevalence "Nodule/Mass=0.04" --prevalence "Pneumothorax=0.04" \
  --prevalence "Pulmonary fibrosis=0.04"

step "2/6  A dataset that load_dataset reads"
run mlcak prepare "$out/phantoms" "$out/dataset" --groups "$out/phantoms/groups.csv" --workers "$workers" --overwrite

# Only 7 of the 22 findings are drawn, so their loss weighs more; milder augmentation suits short training.
short=(--local_loss_weight 10 --rotation_deg 6 --min_scale 0.94 --max_scale 1.1 --shift 0.04)
step "3/6  Teacher at 224 px"
train examples/distillation/train_teacher.py --config small-teacher --num_train_epochs 4 "${short[@]}" ${quiet[@]+"${quiet[@]}"} \
  --dataset "$out/dataset" --output_dir "$out/teacher"

step "4/6  Students at 28 px: plain, and with MLCAK"
train examples/distillation/distil_student.py --config small-student --num_train_epochs 6 "${short[@]}" ${quiet[@]+"${quiet[@]}"} \
  --dataset "$out/dataset" --alpha 0 --beta 0 --gamma 0 --output_dir "$out/student-plain"
train examples/distillation/distil_student.py --config small-student --num_train_epochs 6 "${short[@]}" ${quiet[@]+"${quiet[@]}"} \
  --dataset "$out/dataset" --teacher "$out/teacher" \
  --teacher_cache "$out/teacher-cache" --cache_views 3 --output_dir "$out/student-mlcak"

step "5/6  Comparison on the test split"
train examples/evaluation/evaluate_models.py --dataset "$out/dataset" --output "$out/comparison" \
  --models "teacher=$out/teacher" "student-plain=$out/student-plain" "student-mlcak=$out/student-mlcak"

step "6/6  The student in a Hugging Face pipeline, and with heatmaps"
run python - "$out" <<'PYTHON'
import sys
from datasets import load_dataset
from transformers import pipeline
import mlcak_hf  # registers the model with the Auto classes

out = sys.argv[1]
image = load_dataset(f"{out}/dataset", split="test")[0]["image"]
print(pipeline("image-classification", model=f"{out}/student-mlcak")(image))
PYTHON
mkdir -p "$out/radiographs"
find "$out/phantoms/test" -name '*.dicom' | sort | sed -n '1,24p' | xargs -I{} cp {} "$out/radiographs"
run mlcak predict "$out/student-mlcak" "$out/radiographs" --format csv --output "$out/predictions.csv" --heatmaps "$out/heatmaps"
run mlcak card "$out/student-mlcak" --comparison "$out/comparison/comparison.json" --row student-mlcak
run python examples/demo/draw_overview.py --dataset "$out/dataset" --teacher "$out/teacher" --student "$out/student-mlcak" --output "$out/overview.png"

cat "$out/comparison/comparison.md"
printf '\n\033[1mMade in %d s:\033[0m\n' "$((SECONDS - start))"
printf '  %s\n' "$out/phantoms" "$out/dataset" "$out/teacher" "$out/student-plain" "$out/student-mlcak" \
  "$out/comparison/comparison.md" "$out/comparison/comparison.json" "$out/comparison/comparison.png" "$out/predictions.csv" "$out/heatmaps" "$out/overview.png"
