// The answers as CSV, with the columns of `graft-runtime predict --csv`.

/** `items` are {name, prediction, refused}; those without an answer yet are left out. */
export function table(items, classes) {
  const rows = [["image", "label", "probability", "fault", "unknown", ...classes.map((each) => `probability of ${each}`)]];
  for (const { name, prediction, refused } of items) {
    if (refused) rows.push([harmless(name), "", 0, refused.message, "", ...classes.map(() => "")]);
    else if (prediction) rows.push(row(name, prediction, classes));
  }
  return rows.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}

function row(name, prediction, classes) {
  const answer = prediction.labels.map((each) => each.replace(/[\\|]/g, "\\$&")).join("|");
  const chances = classes.map((each) => prediction.probabilities[each] ?? "");
  const unknown = prediction.fault ? "" : prediction.unknown;
  return [harmless(name), harmless(answer), prediction.probability, prediction.fault, unknown, ...chances];
}

/** Spreadsheets run what begins like a formula. */
const harmless = (text) => (/^'*[=+\-@\t\r]/.test(text) ? `'${text}` : text);

const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
