// Images from wherever they come: chosen, dropped (folders too), pasted.

/** Calls `take(files)` for each drop and paste anywhere on the page, and for what is chosen in the inputs. */
export function gather(zone, inputs, take) {
  for (const input of inputs)
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) (event.preventDefault(), take(files));
  });
  let inside = 0; // dragenter and dragleave come for each element on the way
  const lit = (change) => zone.classList.toggle("over", (inside = Math.max(0, inside + change)) > 0);
  document.addEventListener("dragenter", () => lit(1));
  document.addEventListener("dragleave", () => lit(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    lit(-inside);
    take(await dropped(event.dataTransfer));
  });
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(files))).flat();
}

async function files(entry) {
  if (entry.isFile) return entry.name.startsWith(".") ? [] : [await new Promise((good, bad) => entry.file(good, bad))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((good, bad) => reader.readEntries(good, bad)); // a hundred at a time
    if (!some.length) break;
    found.push(...some);
  }
  found.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  return (await Promise.all(found.map(files))).flat();
}
