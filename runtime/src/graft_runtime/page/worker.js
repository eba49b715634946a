// The model at work in a thread of its own, so that the page stays quick: bytes of an image to its answer.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { area, decided, described, intact, wanted } from "./contract.js";

const WASM = "ort-wasm-simd-threaded.wasm", MODEL = "model.onnx";
const MOST_PIXELS = 64_000_000; // as graft-runtime
let session, about;

onmessage = async ({ data: { id, act, file } }) => {
  try {
    postMessage({ id, said: await { begin, judge }[act](file) });
  } catch (error) {
    postMessage({ id, fault: { code: error.code ?? "failed", message: error.message } });
  }
};

async function begin() {
  const [binary, model] = await fetched([WASM, MODEL]);
  Object.assign(ort.env, { logLevel: "error" });
  Object.assign(ort.env.wasm, { wasmBinary: binary, numThreads: 1 }); // threads would need special headers of the host
  await intact(model);
  about = described(model);
  session = await ort.InferenceSession.create(model);
  await tried();
  const { card, limit, precision } = about;
  return {
    name: card.data?.root || card.backbone.name,
    sha256: await digest(model),
    precision,
    classes: card.classes,
    task: card.task,
    thresholds: card.thresholds,
    unknown: limit !== Infinity,
    sets: false,
    heat: session.outputNames.includes("heat"),
    corrections: false,
    evidence: about.evidence.length > 0,
    limits: { bytes: 256 * 2 ** 20, pixels: MOST_PIXELS, images: 1 },
    licences: { ...card.licences, "onnxruntime-web": "MIT" },
  };
}

/** A black image, so that a file whose network does not fit its classes is told before there is any answer. */
async function tried() {
  const side = about.card.preprocess.resize;
  const image = new ort.Tensor("uint8", new Uint8Array(side * side * 3), [1, side, side, 3]);
  decided(about, await session.run({ image }, wanted(about)));
}

/** SHA-256 of a file, empty on a page that came without https: browsers keep their digests from it. */
async function digest(bytes) {
  const sum = await crypto.subtle?.digest("SHA-256", bytes);
  return sum ? Array.from(new Uint8Array(sum), (byte) => byte.toString(16).padStart(2, "0")).join("") : "";
}

/** The bytes of files, fetched side by side, with word of how far it is. */
async function fetched(names) {
  const done = names.map(() => 0), all = names.map(() => 0);
  const tell = () => all.every(Boolean) && postMessage({ done: done[0] + done[1], all: all[0] + all[1] });
  return Promise.all(
    names.map(async (name, at) => {
      let response;
      try {
        response = await fetch(name);
      } catch (error) {
        throw Object.assign(error, { code: "gone" });
      }
      if (!response.ok) throw Object.assign(new Error(`${name}: HTTP ${response.status}`), { code: "gone" });
      const packed = response.headers.get("Content-Encoding"); // then the length is that of what is packed
      all[at] = packed ? 0 : Number(response.headers.get("Content-Length"));
      const parts = [];
      for (const reader = response.body.getReader(); ; tell()) {
        const { value, done: over } = await reader.read();
        if (over) break;
        parts.push(value);
        done[at] += value.length;
      }
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    }),
  );
}

async function judge(file) {
  const fault = (text) => ({ ...EMPTY, fault: text });
  if (!file.size) return fault("empty file");
  let upright;
  try {
    upright = await decoded(file);
  } catch (error) {
    const other = /\.(heic|heif|hif)$/i.test(file.name ?? "") ? "HEIC is not read here" : "not an image";
    return fault(error instanceof RangeError ? `too large: ${error.message}` : other);
  }
  const { pixels, height, width } = upright;
  const outputs = [...wanted(about), ...(session.outputNames.includes("heat") ? ["heat"] : [])];
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const said = await session.run({ image }, outputs);
  const { best, ...answer } = decided(about, said);
  return { ...EMPTY, ...answer, heat: said.heat && !answer.fault ? heat(said.heat, best, height, width) : null };
}

const EMPTY = { image: "", label: "", probability: 0, labels: [], unknown: false, prediction_set: null, probabilities: {}, nearest: [], fault: "", heat: null };

function heat({ data, dims: [, , rows, columns] }, best, height, width) {
  const values = Array.from(data.subarray(best * rows * columns, (best + 1) * rows * columns));
  return { rows, columns, values, area: area(about, height, width), class: about.card.classes[best] };
}

/** {pixels, height, width} of an upright image on white, RGB, as graft-runtime decodes it. */
async function decoded(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image", premultiplyAlpha: "none" });
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new RangeError(`${bitmap.width} x ${bitmap.height} pixels`);
  const shrink = (await isJpeg(file)) ? shrunk(bitmap) : 1;
  const width = Math.ceil(bitmap.width / shrink), height = Math.ceil(bitmap.height / shrink);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height), pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    pixels[to++] = data[from];
    pixels[to++] = data[from + 1];
    pixels[to++] = data[from + 2];
  }
  return { pixels, height, width };
}

const isJpeg = async (file) => new Uint16Array(await file.slice(0, 2).arrayBuffer())[0] === 0xd8ff;

/** By how much graft-runtime lets its decoder shrink a JPEG: 1, 2, 4 or 8. */
function shrunk({ width, height }) {
  const enough = 2 * about.card.preprocess.resize;
  return [8, 4, 2].find((factor) => Math.floor(Math.min(width, height) / enough) >= factor) ?? 1;
}
