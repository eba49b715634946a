// One image of the list: how it is drawn. Names and labels are text, never markup.
import { paint } from "./heat.js";
import { fault, megabytes, number, percent, say } from "./language.js";

const TOP = 5; // classes that are shown

export function make(name, { text, ...rest } = {}, ...children) {
  const made = Object.assign(document.createElement(name), rest);
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter(Boolean));
  return made;
}

/** Draw an item into its `place`, a list item. `acts` are {about, correct(item, label), retry(item)}. */
export function draw(item, acts) {
  item.place.dataset.state = item.state;
  item.place.setAttribute("aria-busy", String(item.state === "working"));
  const body = item.refused || item.prediction?.fault ? faulty(item, acts) : item.prediction ? judged(item, acts) : [
    make("p", { className: "quiet", text: say(item.state) }),
  ];
  item.place.replaceChildren(shot(item), make("div", { className: "said" }, ...body, make("p", { className: "file", text: item.name })));
}

/** What is said aloud of an item. */
export function spoken(item) {
  const answer = item.refused || item.prediction.fault ? why(item) : headline(item.prediction);
  return say("said", { name: item.name, answer });
}

export const failed = (item) => Boolean(item.refused || item.prediction?.fault);

function shot(item) {
  if (!item.preview) return make("div", { className: "shot none", text: item.preview === null ? say("noPreview") : "" });
  const image = make("img", { src: item.preview.url, alt: item.name, width: item.preview.width, height: item.preview.height });
  const heat = item.prediction?.heat;
  const fit = make("div", { className: "fit" }, image, heat && layer(heat));
  fit.style.setProperty("--ratio", item.preview.width / item.preview.height);
  return make("div", { className: "shot" }, fit);
}

function layer(heat) {
  const made = make("canvas", { className: "heat", role: "img", ariaLabel: say("heatAlt", { label: heat.class }) });
  paint(made, heat);
  ["left", "top", "width", "height"].forEach((side, at) => (made.style[side] = `${100 * heat.area[at]}%`));
  return made;
}

// --- answers ----------------------------------------------------------------------------------------------------------

function judged(item, acts) {
  const { prediction } = item;
  const best = Object.entries(prediction.probabilities).reduce((one, other) => (other[1] > one[1] ? other : one), ["", 0])[0];
  return [
    make("h3", { className: prediction.unknown ? "unknown" : "", text: headline(prediction) }),
    prediction.unknown && make("p", { text: `${say("unknownWhy")} ${say("unknownBest", { label: best })}` }),
    bars(prediction, acts.about),
    prediction.nearest?.length ? nearest(prediction) : null,
    acts.about.corrections && correction(item, acts),
  ];
}

function headline(prediction) {
  if (prediction.unknown) return say("unknown");
  if (!prediction.labels.length) return say("none");
  if (prediction.labels.length > 1) return say("several", { labels: listed(prediction.labels) });
  const [label] = prediction.labels;
  return say("sure", { label, chance: percent(prediction.probabilities[label]) });
}

/** Names with commas between; one that has a comma of its own stands in quotes. */
const listed = (names) => names.map((name) => (/[",]/.test(name) ? JSON.stringify(name) : name)).join(", ");

function bars(prediction, about) {
  const several = about.task === "multilabel";
  const order = Object.entries(prediction.probabilities).sort((one, other) => other[1] - one[1]);
  const shown = order.slice(0, Math.max(TOP, prediction.labels.length));
  const list = make("ul", { className: prediction.unknown ? "bars doubtful" : "bars" });
  for (const [label, chance] of shown) {
    const given = prediction.labels.includes(label);
    const limit = several ? about.thresholds[about.classes.indexOf(label)] : undefined;
    const track = make("span", { className: "track", ariaHidden: "true" }, make("span", { className: "value" }));
    track.firstChild.style.width = `${100 * chance}%`;
    if (limit !== undefined) {
      const mark = track.appendChild(make("span", { className: "limit" }));
      mark.style.left = `${100 * limit}%`;
      track.title = say("limit", { share: percent(limit) });
    }
    list.append(
      make("li", { className: given ? "given" : "" },
        make("span", { className: "label", text: label }),
        several && given ? make("span", { className: "tick", text: "✓ " }, make("span", { className: "away", text: say("given") })) : null,
        make("span", { className: "chance", text: percent(chance) }),
        track),
    );
  }
  return list;
}

function nearest(prediction) {
  const list = make("ul", { className: "nearest" });
  for (const { image, labels, similarity, thumbnail } of prediction.nearest) {
    const name = listed(labels);
    // Only images that lie in the answer itself: nothing is fetched from elsewhere.
    const inside = thumbnail?.startsWith("data:image/");
    list.append(
      make("li", {},
        inside ? make("img", { src: thumbnail, alt: image, title: image }) : make("span", { className: "file", text: image }),
        make("span", { text: name }),
        make("span", { className: "quiet", text: say("similar", { share: percent(similarity) }) })),
    );
  }
  const title = make("summary", { text: say("nearest") });
  return make("details", { className: "evidence", open: prediction.unknown }, title, list);
}

// --- what went wrong --------------------------------------------------------------------------------------------------

function faulty(item, acts) {
  const again = item.refused && !item.final;
  return [
    make("p", { className: "fault", text: why(item) }),
    again && make("button", { type: "button", className: "button", text: say("retry"), onclick: () => acts.retry(item) }),
  ];
}

function why({ refused, prediction }) {
  if (!refused) return fault(prediction.fault);
  if (refused.busy) return say("stillBusy");
  if (refused.say) return say(refused.say, sizes(refused));
  return fault(refused.message);
}

/** Sizes are written in the language of the moment. */
const sizes = ({ say: key, values }) =>
  key === "tooManyBytes"
    ? { size: megabytes(values.size), limit: megabytes(values.limit) }
    : { size: number(values.size / 1e6), limit: number(values.limit / 1e6) };

// --- corrections ------------------------------------------------------------------------------------------------------

function correction(item, acts) {
  if (item.stored) return make("p", { className: "stored", tabIndex: -1, text: say("saved", { label: item.stored }) });
  const title = make("summary", { text: say("right") });
  const id = `right-${item.number}`, help = `help-${item.number}`;
  const field = make("input", { id, required: true, autocomplete: "off", maxLength: 100 });
  field.setAttribute("list", "class-names");
  field.setAttribute("aria-describedby", help);
  const button = make("button", { type: "submit", className: "button", text: say("save") });
  const trouble = make("p", { className: "fault", role: "alert" });
  const form = make("form", {},
    make("label", { htmlFor: id, text: say("rightClass") }),
    make("div", { className: "row" }, field, button),
    make("p", { className: "quiet", id: help, text: say("rightHelp") }),
    trouble);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    Object.assign(button, { disabled: true, textContent: say("saving") });
    trouble.textContent = await acts.correct(item, field.value.trim());
    Object.assign(button, { disabled: false, textContent: say("save") });
  });
  return make("details", { className: "correction" }, title, form);
}
