// The answers as CSV, with the columns of `graft-runtime predict --csv`.

/** `items` are {name, prediction, refused}; those without an answer yet are left out. */
export function table(items, classes) {
  const rows = [["picture", "label", "probability", "fault", ...classes.map(harmless)]];
  for (const { name, prediction, refused } of items) {
    if (refused) rows.push([harmless(name), "", 0, refused.message, ...classes.map(() => "")]);
    else if (prediction) rows.push(row(name, prediction, classes));
  }
  return rows.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}

function row(name, prediction, classes) {
  const answer = prediction.unknown ? "unknown" : harmless(prediction.labels.join("|"));
  const chances = classes.map((each) => prediction.probabilities[each] ?? "");
  return [harmless(name), answer, prediction.probability, prediction.fault, ...chances];
}

/** Spreadsheets run what begins like a formula. */
const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);

const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
