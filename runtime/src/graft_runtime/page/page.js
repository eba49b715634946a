// The page: what is on it, and what happens when.
import * as answerer from "./answerer.js";
import { judge } from "./asking.js";
import { camera } from "./camera.js";
import { draw, failed, make, spoken } from "./card.js";
import { gather } from "./gather.js";
import { begin, change, megabytes, number, say, tag } from "./language.js";
import { preview } from "./preview.js";
import { table } from "./table.js";

const get = (id) => document.getElementById(id);
const show = (id, shown) => (get(id).hidden = !shown);
const items = []; // all images, as they are listed
const queue = []; // those that wait for an answer
let about = null; // the model, once it is known
let running = null; // {control, all, done: [items]} while images are judged
let notice = null; // {key, values, button, act}: what concerns all images
let previewed = Promise.resolve(); // previews are made one after the other
let count = 0;

begin();
speak();
gather(get("drop"), [get("files"), get("snap")], take);
camera(take);
get("language").addEventListener("click", () => (change(), speak()));
get("heat").addEventListener("change", warm);
get("stop").addEventListener("click", () => stop());
get("again").addEventListener("click", () => (get("answers-title").focus(), run()));
get("clear").addEventListener("click", clear);
get("download").addEventListener("click", download);
get("token-form").addEventListener("submit", entered);
get("token").addEventListener("close", closed);
for (const button of document.querySelectorAll("[data-close]"))
  button.addEventListener("click", () => button.closest("dialog").close());
meet();

// --- the model --------------------------------------------------------------------------------------------------------

async function meet() {
  quiet();
  get("where").textContent = say("loading");
  try {
    about = await answerer.about((done, all) => {
      get("where").textContent = say("loadingMany", { done: megabytes(done), all: megabytes(all) });
    });
  } catch (error) {
    get("where").textContent = "";
    return trouble(error, meet);
  }
  document.body.append(make("datalist", { id: "class-names" }, ...about.classes.map((value) => make("option", { value }))));
  show("heat-label", about.heat);
  show("about", true);
  speak();
  run();
}

/** What concerns all images; `act` is what to try again. */
function trouble(error, act) {
  if (error.status === 401) return askToken(act);
  const gone = answerer.place === "server" ? "gone" : "goneFile";
  if (error.code === "gone") tell(gone, "retry", act);
  else tell("noModel", "retry", act, { why: error.message });
}

// --- images ---------------------------------------------------------------------------------------------------------

function take(files) {
  if (!files.length) return (get("status").textContent = say("nothing"));
  const fresh = files.map((file) => ({ file, name: file.name, number: ++count, state: "waiting", place: make("li", { tabIndex: -1 }) }));
  for (const item of fresh) {
    draw(item, acts);
    item.looked = previewed = previewed.then(() => look(item));
  }
  items.unshift(...fresh);
  get("list").prepend(...fresh.map((item) => item.place));
  queue.push(...fresh);
  if (running) running.all += fresh.length;
  headings();
  if (about && !notice) run();
}

async function look(item) {
  if (item.gone) return;
  const made = await preview(item.file);
  if (item.gone) return made && URL.revokeObjectURL(made.url);
  item.preview = made;
  draw(item, acts);
}

/** Whether an item may be sent; one over a limit is told so instead. */
async function ready(item) {
  await item.looked;
  if (item.gone) return false;
  const { bytes, pixels } = about.limits, { size, type } = item.file;
  const all = item.preview ? item.preview.width * item.preview.height : 0;
  const refused =
    size > bytes ? { say: "tooManyBytes", values: { size, limit: bytes } }
    // A large JPEG is made smaller while it is decoded, so that only the server can tell.
    : all > pixels && !(type === "image/jpeg" && answerer.place === "server") ? { say: "tooManyPixels", values: { size: all, limit: pixels } }
    : size === 0 ? { message: "empty file" }
    : null;
  if (!refused) return true;
  told(Object.assign(item, { final: true, refused: { message: refused.say ? "too large" : "", ...refused } }), "done");
  return false;
}

const acts = {
  get about() {
    return about;
  },
  retry(item) {
    queue.push(Object.assign(item, { refused: null }));
    if (running) running.all += 1;
    told(item, "waiting");
    item.place.focus();
    run();
  },
  /** Gives what went wrong, in words. */
  async correct(item, label) {
    try {
      await answerer.correct(item.file, label);
    } catch (error) {
      return error.code === "gone" ? say("gone") : error.message;
    }
    item.stored = label;
    draw(item, acts);
    item.place.querySelector(".stored").focus();
    return "";
  },
};

// --- answers ----------------------------------------------------------------------------------------------------------

async function run() {
  if (running || !about || !queue.length) return;
  quiet();
  const own = (running = { control: new AbortController(), all: queue.length, done: [] });
  for (const item of queue) told(item, "waiting");
  try {
    await judge(queue, { answerer, limits: about.limits, told, ready, busy, signal: own.control.signal });
  } catch (error) {
    trouble(error, run);
  } finally {
    if (running === own) running = null;
  }
  for (const item of queue) told(item, "stopped");
  announce(own.done);
  headings();
  if (queue.length && !notice && !own.control.signal.aborted) run(); // came while the last ones were judged
}

function told(item, state) {
  if (item.gone) return;
  item.state = state;
  draw(item, acts);
  if (state === "done") running?.done.push(item);
  headings();
}

function busy(seconds, turn, turns) {
  get("progress-text").textContent = say("busy", { seconds, turn, turns });
}

/** A few answers are read out; of many their number is. */
function announce(done) {
  const faults = done.filter(failed).length;
  const counts = [say("doneAll", { count: done.length - faults }), ...(faults ? [say("doneFaults", { count: faults })] : [])];
  if (done.length) get("status").textContent = (done.length > 3 ? counts : done.map(spoken)).join(" ");
}

function stop() {
  running?.control.abort();
  get("answers-title").focus(); // the button that was pressed is gone
}

function clear() {
  running?.control.abort();
  for (const item of items) {
    item.gone = true;
    if (item.preview) URL.revokeObjectURL(item.preview.url);
  }
  items.length = queue.length = 0;
  get("list").replaceChildren();
  get("status").textContent = "";
  headings();
  get("files").focus();
}

function download() {
  const text = `\ufeff${table(items, about.classes)}`; // so that spreadsheets know that it is UTF-8
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href: url, download: "answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// --- what is shown ----------------------------------------------------------------------------------------------------

function speak() {
  document.documentElement.lang = tag();
  for (const each of document.querySelectorAll("[data-say]")) each.textContent = say(each.dataset.say);
  Object.assign(get("language"), { textContent: say("other"), lang: tag() === "en" ? "zh-Hans" : "en" });
  if (about) {
    get("name").textContent = about.name;
    document.title = say("title", { name: about.name });
    get("classes").textContent = say("classes", { count: about.classes.length });
    get("where").textContent = say(answerer.place === "browser" ? "toNobody" : about.corrections ? "toServer" : "toServerOnly");
    facts();
  }
  if (notice) tell(notice.key, notice.button, notice.act, notice.values);
  items.forEach((item) => draw(item, acts));
  headings();
}

function headings() {
  show("answers", items.length);
  get("drop").classList.toggle("small", items.length > 0);
  show("progress", running);
  show("again", !running && queue.length && about && !notice);
  get("answers-title").textContent = say("answers", { count: items.length });
  get("download").disabled = !items.some((item) => item.state === "done");
  if (!running) return;
  get("progress-text").textContent = say("progress", { done: running.done.length, all: running.all });
  Object.assign(get("progress-bar"), { value: running.done.length, max: running.all });
}

function warm() {
  get("list").classList.toggle("warm", get("heat").checked);
  show("heat-key", get("heat").checked);
}

function facts() {
  const { name, classes, precision, unknown, limits, sha256, licences } = about;
  const rows = {
    aboutName: name,
    aboutClasses: classes.join(", "),
    aboutPrecision: precision,
    aboutUnknown: say(unknown ? "yesUnknown" : "noUnknown"),
    aboutLimits: say("limits", { bytes: megabytes(limits.bytes), pixels: number(limits.pixels / 1e6) }),
    aboutLicences: Object.entries(licences).map(([what, licence]) => `${what}: ${licence}`).join(", "),
    aboutDigest: sha256,
  };
  get("facts").replaceChildren(
    ...Object.entries(rows).filter(([, text]) => text).map(([key, text]) => make("div", {}, make("dt", { text: say(key) }), make("dd", { text }))),
  );
}

function tell(key, button, act, values) {
  notice = { key, button, act, values };
  get("notice-text").textContent = say(key, values);
  Object.assign(get("notice-button"), { textContent: say(button), onclick: act });
  show("notice", true);
  headings();
}

function quiet() {
  notice = null;
  show("notice", false);
}

// --- the token --------------------------------------------------------------------------------------------------------

let asking = null; // what to do once there is a token

function askToken(act) {
  asking = act;
  quiet();
  const wrong = get("token-text").value !== "";
  get("token-why").textContent = say(wrong ? "tokenWrong" : "tokenWhy");
  get("token-text").value = get("token").returnValue = "";
  get("token").showModal();
}

function entered(event) {
  event.preventDefault();
  answerer.allow(get("token-text").value.trim());
  get("token").close("entered");
}

function closed() {
  if (get("token").returnValue) asking();
  else tell("tokenNone", "enter", () => askToken(asking));
}
