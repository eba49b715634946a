// Which language the page speaks, and how it writes numbers.
import { words } from "./words.js";

const KEY = "graft-language";
let language = "en";

export function begin() {
  language = remembered() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
}

export function change() {
  language = language === "en" ? "zh" : "en";
  try {
    localStorage.setItem(KEY, language);
  } catch {
    // Not allowed to remember: then it holds for this visit.
  }
}

function remembered() {
  try {
    const kept = localStorage.getItem(KEY);
    return kept in words ? kept : null;
  } catch {
    return null;
  }
}

export const tag = () => (language === "zh" ? "zh-Hans" : "en");

/** The text called `key` in the chosen language; `values.count` decides between one and many. */
export function say(key, values = {}) {
  const found = words[language][key];
  const text = Array.isArray(found) ? found[values.count === 1 ? 0 : 1] : found;
  return text.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === "number" ? number(values[name]) : values[name]));
}

/** A fault of an image, in the chosen language where it is one that we know. */
export function fault(text) {
  const known = Object.entries(words[language].faults).find(([begins]) => text.startsWith(begins));
  return known ? known[1] : say("failed", { why: text });
}

export const number = (value) => new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(value);

/** 0.9312 as 93.1 %; what is not certain is never written as 0 or 100 %. */
export function percent(share) {
  const shown = share > 0 && share < 1 ? Math.min(0.999, Math.max(0.001, share)) : share;
  const text = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 }).format(shown);
  return shown > share ? `< ${text}` : shown < share ? `> ${text}` : text;
}

export const megabytes = (bytes) => `${number(bytes / 1e6 < 0.1 ? 0.1 : bytes / 1e6)} MB`;
