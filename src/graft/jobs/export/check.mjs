// `node check.mjs FOLDER`: run the files of an exported folder in Node. Images are read from standard input, each as
// height, width (uint32, little-endian) and its RGB values; a prediction for each, a line of JSON, is printed.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const folder = resolve(process.argv[2]);
const own = (name) => import(pathToFileURL(join(folder, name)).href);
const ort = await own("ort.wasm.bundle.min.mjs");
const { decided, described, intact, wanted } = await own("contract.js");

Object.assign(ort.env, { logLevel: "error" });
Object.assign(ort.env.wasm, { wasmBinary: readFileSync(join(folder, "ort-wasm-simd-threaded.wasm")), numThreads: 1 });
const model = readFileSync(join(folder, "model.onnx"));
await intact(model);
const about = described(model), session = await ort.InferenceSession.create(model);

let waiting = [], there = 0;
async function* exactly(chunks) {
  let wanted = yield;
  for await (const chunk of chunks) {
    waiting.push(chunk);
    there += chunk.length;
    while (wanted <= there) {
      const all = Buffer.concat(waiting);
      waiting = [all.subarray(wanted)];
      there = waiting[0].length;
      wanted = yield all.subarray(0, wanted);
    }
  }
}

const input = exactly(process.stdin);
await input.next();
for (;;) {
  const { value: head, done } = await input.next(8);
  if (done) break;
  const [height, width] = [head.readUInt32LE(0), head.readUInt32LE(4)];
  const { value: pixels } = await input.next(height * width * 3);
  const image = new ort.Tensor("uint8", Uint8Array.from(pixels), [1, height, width, 3]);
  const prediction = decided(about, await session.run({ image }, wanted(about)));
  process.stdout.write(`${JSON.stringify(prediction)}\n`);
}
