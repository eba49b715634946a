// Answers from a graft server. The page knows only what is exported here; ask-browser.js exports the same.
//
//   about(loaded)         -> what `GET /v1/model` says of the model; `loaded(done, all)` in bytes while it is fetched
//   answer(files, signal) -> one prediction for each file, each with `heat` or null
//   correct(file, label)  -> {stored}: keeps an image with its right class
//   allow(token)          -> remembers the token that the server asks for
//   place                 -> "server" or "browser": where images are judged
//   group                 -> how many images to ask about at once
// All but `allow` throw Refused.
import { Refused } from "./refused.js";

const KEY = "graft-token";
export const place = "server";
export const group = 4;
let token = null;

begin();

export const about = () => asked("v1/model", {});

export async function answer(files, signal) {
  const body = files.length === 1 ? files[0] : form(files.map((file) => ["image", file]));
  const headers = files.length === 1 ? { "Content-Type": "application/octet-stream" } : {};
  return (await asked("v1/predict?heat=1", { method: "POST", body, headers, signal })).predictions;
}

export const correct = (file, label) =>
  asked("v1/corrections", { method: "POST", body: form([["image", file], ["label", label]]) });

export function allow(text) {
  token = text;
  try {
    sessionStorage.setItem(KEY, text);
  } catch {
    // Not allowed to remember: then it holds until the page is loaded anew.
  }
}

function form(fields) {
  const made = new FormData();
  for (const [name, value] of fields) made.append(name, value);
  return made;
}

async function asked(path, { headers = {}, ...rest }) {
  if (token && !/^[\x21-\x7e]+$/.test(token)) throw new Refused("unauthorized", "no such token", { status: 401 });
  let response, said;
  try {
    const allowed = token ? { Authorization: `Bearer ${token}` } : {};
    response = await fetch(path, { ...rest, headers: { ...headers, ...allowed }, cache: "no-store" });
    said = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new Refused("strange", `HTTP ${response.status}`, { status: response.status });
    throw new Refused("gone", error.message);
  }
  if (response.ok || said.predictions) return said; // a single image with a fault has its prediction, and 422
  const { code = "strange", message = `HTTP ${response.status}` } = said.error ?? {};
  throw new Refused(code, message, { status: response.status, wait: seconds(response.headers.get("Retry-After")) });
}

function seconds(text) {
  const wait = text === null ? NaN : /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(wait) ? Math.max(0, wait) : null;
}

/** The address that the server prints at its start has the token behind the #, which browsers send nowhere. */
function begin() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    allow(given);
    return history.replaceState(null, "", location.pathname + location.search); // nor stays it where others may read it
  }
  try {
    token = sessionStorage.getItem(KEY);
  } catch {
    // Nothing may be remembered: the page asks.
  }
}
