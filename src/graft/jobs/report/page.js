"use strict";
// The page is complete without this: it adds the images behind each number, and the sliders.
const facts = JSON.parse(document.getElementById("facts").textContent);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const make = (name, text) => Object.assign(document.createElement(name), text === undefined ? {} : { textContent: text });

function showImages(button) {
  const { truth, said } = button.dataset;
  const place = document.getElementById("images");
  document.querySelectorAll("button[aria-pressed]").forEach((each) => each.removeAttribute("aria-pressed"));
  button.setAttribute("aria-pressed", "true");
  const list = make("ul");
  const wanted = facts.images.filter(([, is, answer]) => is === truth && answer === said);
  for (const [name, , , sure, source] of wanted) {
    const item = make("li");
    item.append(Object.assign(make("img"), { src: source, alt: truth }), facts.several ? "" : `${percent(sure, 0)} · `, name);
    list.append(item);
  }
  const total = Number(button.textContent);
  const some = wanted.length < total ? `, ${wanted.length} of ${total}` : "";
  place.replaceChildren(make("h3", truth === said ? `${truth}, answered right${some}` : `${truth}, answered ${said}${some}`), list);
}
document.querySelectorAll("button[data-truth]").forEach((each) => each.addEventListener("click", () => showImages(each)));

for (const box of document.querySelectorAll(".scroll")) {
  const more = box.parentNode.insertBefore(make("p"), box);
  more.className = "more";
  const tell = () => {
    const left = box.scrollLeft > 1, right = box.scrollLeft + box.clientWidth < box.scrollWidth - 1;
    more.textContent = `${left ? "← " : ""}more to the ${left && right ? "left and right" : left ? "left" : "right"}${right ? " →" : ""}`;
    more.hidden = !left && !right;
  };
  box.addEventListener("scroll", tell, { passive: true });
  addEventListener("resize", tell);
  tell();
}

const least = document.getElementById("least");
least?.addEventListener("input", () => {
  const limit = least.value / 100;
  const rows = facts.sure.flatMap((sure, row) => (sure >= limit ? [row] : []));
  const right = rows.filter((row) => facts.right[row]).length;
  document.getElementById("told").textContent = rows.length
    ? `Sure of at least ${least.value}%: ${percent(rows.length / facts.sure.length)} of the images are answered, and ${percent(right / rows.length)} of these answers are right.`
    : `It is never as sure as ${least.value}%.`;
});

if (facts.chances.length) {
  const choice = document.getElementById("class"), threshold = document.getElementById("threshold");
  choice.append(...facts.classes.map((name) => make("option", name)));
  const tell = () => {
    const at = choice.selectedIndex, limit = (threshold.value / 100) * 255;
    const truth = new Set(facts.truth[at]);
    const said = facts.chances[at].flatMap((chance, row) => (chance >= limit ? [row] : []));
    const hits = said.filter((row) => truth.has(row)).length;
    const found = truth.size ? `finds ${percent(hits / truth.size)} of the ${truth.size} images of ${choice.value}` : `there is no test image of ${choice.value}`;
    const right = said.length ? `${percent(hits / said.length)} of its ${said.length} answers are right` : "it never answers so";
    document.getElementById("class-told").textContent = `From ${threshold.value}% on: ${found}; ${right}.`;
  };
  choice.addEventListener("change", tell);
  threshold.addEventListener("input", tell);
  document.getElementById("class-slider").hidden = false;
  tell();
}
