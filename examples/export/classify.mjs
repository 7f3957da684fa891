// Classify 8-bit pictures in Node.js with a model that `mlcak export MODEL FOLDER --to vit --javascript` wrote:
//   npm install --ignore-scripts @huggingface/transformers@4
//   node classify.mjs FOLDER chest.png ...
// Research use only: not a medical device, not for diagnosis.
import path from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, ...files] = process.argv.slice(2);
env.allowRemoteModels = false; // nothing leaves this machine
env.localModelPath = path.dirname(path.resolve(folder));
const classify = await pipeline("image-classification", path.basename(path.resolve(folder)), { dtype: "fp32" });
for (const file of files) {
    const labels = await classify(file, { top_k: 100 });
    console.log(JSON.stringify({ file, labels }));
}
