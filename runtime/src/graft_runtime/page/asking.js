// The queue: images go to the answerer in small groups, one group after the other.
import { Refused } from "./refused.js";

const TURNS = 5; // how often a busy server is asked
const WAIT = 2; // seconds, where it does not say
const LONGEST = 60; // seconds that are waited, whatever it says
const ROOM = 16e6; // bytes of a group

/**
 * Judge the items of `queue`, {file, prediction, refused}, which may grow meanwhile. `told(item, state)` after each
 * change; `ready(item)` is waited for, and false keeps an item back; `busy(seconds, turn, turns)` while waiting.
 * Throws Refused only for what concerns all: "gone", or status 401 or 403. Ends without a word on `signal`. What was
 * not judged is back in the queue then.
 */
export async function judge(queue, how) {
  while (queue.length && !how.signal.aborted) {
    const some = [];
    for (const item of taken(queue, how.answerer.group, how.limits)) if (await how.ready(item)) some.push(item);
    some.forEach((item) => how.told(item, "working"));
    try {
      await judged(some, how);
    } catch (error) {
      const left = some.filter((item) => item.state === "working");
      left.forEach((item) => how.told(item, "waiting"));
      queue.unshift(...left);
      if (error.name !== "AbortError") throw error;
    }
  }
}

/** The next few items, as many as go into one request. */
function taken(waiting, most, limits) {
  const some = [waiting.shift()];
  const room = Math.min(ROOM, limits.bytes * 0.9); // a request is a little longer than its files
  let bytes = some[0].file.size;
  while (waiting.length && some.length < Math.min(most, limits.images) && bytes + waiting[0].file.size <= room) {
    bytes += waiting[0].file.size;
    some.push(waiting.shift());
  }
  return some;
}

async function judged(items, how) {
  if (!items.length) return;
  const done = (item, found) => how.told(Object.assign(item, { prediction: null, refused: null }, found), "done");
  try {
    const predictions = await patiently(() => how.answerer.answer(items.map((item) => item.file), how.signal), how);
    items.forEach((item, at) => done(item, { prediction: predictions[at] }));
  } catch (error) {
    if (!(error instanceof Refused) || error.code === "gone" || [401, 403].includes(error.status)) throw error;
    // What is wrong with one of several is not the others' fault: ask for each by itself.
    if (items.length > 1 && !error.busy) for (const item of items) await judged([item], how);
    else items.forEach((item) => done(item, { refused: error }));
  }
}

async function patiently(ask, { busy, signal }) {
  for (let turn = 1; ; turn++) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Refused) || ![429, 503].includes(error.status)) throw error;
      if (turn === TURNS) throw Object.assign(error, { busy: true });
      for (let left = Math.min(LONGEST, Math.ceil(error.wait ?? WAIT * turn)); left > 0; left--) {
        busy(left, turn + 1, TURNS);
        await pause(1000, signal);
      }
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new DOMException("stopped", "AbortError"));
    if (signal.aborted) return stop();
    const timer = setTimeout(() => resolve(signal.removeEventListener("abort", stop)), milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), stop()), { once: true });
  });
}
