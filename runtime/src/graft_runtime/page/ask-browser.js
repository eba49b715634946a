// Answers without a server: the model runs in this browser. Exports what ask-server.js does; see there.
import { Refused } from "./refused.js";

export const place = "browser";
export const group = 1;
const waiting = new Map(); // what is told when a question is answered, by its number
let worker, count = 0, told = () => {};

export function about(loaded) {
  told = loaded;
  worker?.terminate();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: { id, said, fault, done, all } }) => {
    if (id === undefined) return told(done, all);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (fault) reject(new Refused(fault.code, fault.message));
    else resolve(said);
  };
  worker.onerror = ({ message }) => {
    for (const { reject } of waiting.values()) reject(new Refused(message ? "failed" : "gone", message ?? ""));
    waiting.clear();
  };
  return asked("begin");
}

export const answer = (files) => Promise.all(files.map((file) => asked("judge", file)));

export async function correct() {
  throw new Refused("nowhere", "There is no server to keep it.");
}

export function allow() {}

function asked(act, file) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ id: count, act, file });
  });
}
