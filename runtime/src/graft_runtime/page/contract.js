// What an exported file says of itself, and what its numbers mean: graft_runtime's contract.py and decide.py.

const RATE = 0.05; // of images of known classes that may be called unknown
const UNSURE = 0.5; // the threshold of a label that has none of its own
const NO_NUMBER = "the network gave no number"; // as graft_runtime.decide
const LONGEST = 4; // times the short side; what is beyond is not looked at

const CUT = "it is no ONNX file, or not all of it is there";
const DAMAGED = "the model is damaged: its content is not what was written. Copy it anew, or export again";

// The properties of an ONNX file, which is protobuf: field 14, entries of key (1) and value (2).
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length) throw new Error(CUT);
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const begin = at, key = varint(), kind = key % 8;
    if (kind === 0) varint();
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(key / 8), bytes.subarray(at, (at += length)), begin];
    } else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4;
    else throw new Error(CUT);
  }
  if (at > bytes.length) throw new Error(CUT);
}

const text = (bytes) => new TextDecoder().decode(bytes);

/** [key, value, where it begins, where it ends] of each property. */
function* entries(model) {
  for (const [number, content, begin] of fields(model)) {
    if (number !== 14) continue;
    const entry = new Map(fields(content));
    yield [text(entry.get(1)), text(entry.get(2)), begin, content.byteOffset - model.byteOffset + content.length];
  }
}

const properties = (model) => Object.fromEntries(entries(model));

/**
 * Nothing, once the bytes of a file are known to be those that were written; an Error where they are not. Files of
 * before have no checksum, and a page that came without https has no means to work one out: these pass.
 */
export async function intact(model) {
  const found = [...entries(model)].find(([key]) => key === "graft.checksum");
  if (!found && !properties(model)["graft.export"]?.includes("graft.checksum")) return;
  if (!globalThis.crypto?.subtle) return;
  const [, told, begin, end] = found ?? [null, "", 0, 0];
  const parts = [model.subarray(0, begin), model.subarray(end)];
  const rest = parts[1].length ? new Uint8Array(await new Blob(parts).arrayBuffer()) : parts[0];
  const sum = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", rest)), (byte) => byte.toString(16).padStart(2, "0"));
  if (told !== sum.join("")) throw new Error(DAMAGED);
}

/**
 * {card, limit, evidence, precision} of the bytes of a file. `limit` is the score above which an image is
 * unknown; `evidence` are the training images that the file shows, mostly none.
 */
export function described(model) {
  const about = properties(model);
  if (!about["graft.card"]) throw new Error("`graft export` did not write this file");
  const { strays, precision } = JSON.parse(about["graft.export"]);
  const rank = Math.ceil(Math.round((strays.length + 1) * (1 - RATE) * 1e9) / 1e9);
  const card = JSON.parse(about["graft.card"]), { classes, thresholds = [] } = card;
  if (new Set(classes).size !== classes.length || ![0, classes.length].includes(thresholds.length))
    throw new Error("its classes and thresholds do not fit each other");
  return {
    card,
    limit: strays[rank - 1] ?? Infinity,
    evidence: JSON.parse(about["graft.evidence"] ?? '{"images": []}').images,
    precision,
  };
}

/** The outputs that `decided` reads. */
export const wanted = ({ evidence }) => ["probabilities", "unknown", ...(evidence.length ? ["nearest", "similarity"] : [])];

/** The answer for one image from what the file says of it: for each output that is `wanted` a tensor, {data}. */
export function decided({ card, limit, evidence }, said) {
  const chances = Array.from(said.probabilities.data, Number), { classes, thresholds = [] } = card;
  if (chances.length !== classes.length)
    throw new Error(`the file names ${classes.length} classes, and its network has ${chances.length}`);
  if (![...chances, said.unknown.data[0]].every(Number.isFinite)) return { fault: NO_NUMBER, best: 0 };
  const order = chances.map((_, at) => at).sort((one, other) => chances[other] - chances[one]);
  const unknown = said.unknown.data[0] > limit;
  const several = card.task === "multilabel";
  const given = several ? order.filter((at) => chances[at] >= (thresholds[at] ?? UNSURE)) : order.slice(0, 1);
  return {
    label: unknown ? "" : classes[order[0]],
    probability: chances[order[0]],
    probabilities: Object.fromEntries(classes.map((name, at) => [name, chances[at]])),
    labels: unknown ? [] : given.map((at) => classes[at]),
    unknown,
    nearest: evidence.length ? Array.from(said.nearest.data, (row, at) => neighbour(evidence[row], said.similarity.data[at])) : [],
    best: order[0],
  };
}

const neighbour = ({ image, labels, thumbnail }, similarity) => ({
  image,
  labels,
  similarity,
  thumbnail: thumbnail && `data:image/jpeg;base64,${thumbnail}`,
});

/** [left, top, width, height] of the part that is looked at, in shares of the image. */
export function area({ card }, height, width) {
  const { size, resize, crop } = card.preprocess, short = Math.min(height, width);
  const kept = [Math.min(width, LONGEST * short), Math.min(height, LONGEST * short)];
  const sides = [0, 1].map((at) => {
    const whole = [width, height][at];
    const scaled = crop === "squash" ? resize : Math.max(resize, (resize * kept[at]) / Math.min(...kept));
    const share = ((size / scaled) * kept[at]) / whole;
    return [(1 - share) / 2, share];
  });
  return [sides[0][0], sides[1][0], sides[0][1], sides[1][1]];
}
