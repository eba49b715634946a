// What an exported file says of itself, and what its numbers mean: graft_runtime's contract.py and decide.py.

const RATE = 0.05; // of pictures of known classes that may be called unknown
const UNSURE = 0.5; // the threshold of a label that has none of its own
const LONGEST = 4; // times the short side; what is beyond is not looked at

// The properties of an ONNX file, which is protobuf: field 14, entries of key (1) and value (2).
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    if (key % 8 === 0) varint();
    else if (key % 8 === 2) {
      const length = varint();
      yield [Math.floor(key / 8), bytes.subarray(at, (at += length))];
    } else at += key % 8 === 1 ? 8 : 4;
  }
}

function properties(model) {
  const text = (bytes) => new TextDecoder().decode(bytes);
  const entries = [...fields(model)].filter(([number]) => number === 14).map(([, entry]) => new Map(fields(entry)));
  return Object.fromEntries(entries.map((entry) => [text(entry.get(1)), text(entry.get(2))]));
}

/**
 * {card, limit, evidence, precision} of the bytes of a file. `limit` is the score above which a picture is
 * unknown; `evidence` are the training pictures that the file shows, mostly none.
 */
export function described(model) {
  const about = properties(model);
  if (!about["graft.card"]) throw new Error("`graft export` did not write this file");
  const { strays, precision } = JSON.parse(about["graft.export"]);
  const rank = Math.ceil(Math.round((strays.length + 1) * (1 - RATE) * 1e9) / 1e9);
  return {
    card: JSON.parse(about["graft.card"]),
    limit: strays[rank - 1] ?? Infinity,
    evidence: JSON.parse(about["graft.evidence"] ?? '{"pictures": []}').pictures,
    precision,
  };
}

/** The outputs that `decided` reads. */
export const wanted = ({ evidence }) => ["probabilities", "unknown", ...(evidence.length ? ["nearest", "similarity"] : [])];

/** The answer for one picture from what the file says of it: for each output that is `wanted` a tensor, {data}. */
export function decided({ card, limit, evidence }, said) {
  const chances = Array.from(said.probabilities.data, Number), { classes, thresholds } = card;
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

const neighbour = ({ picture, labels, thumbnail }, similarity) => ({
  picture,
  labels,
  similarity,
  thumbnail: thumbnail && `data:image/jpeg;base64,${thumbnail}`,
});

/** [left, top, width, height] of the part that is looked at, in shares of the picture. */
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
