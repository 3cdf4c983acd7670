// How far a discovery is that is being made on the server. It goes on when the page is closed.

import { element } from "./elements.js";
import { ask, tell } from "./server.js";

const EVERY = 600; // milliseconds
const STAGES = {
  "reading the words": "Reading the words", "counting groups": "Finding out how many groups there are",
  grouping: "Grouping", "placing images": "Putting every photo into a group", naming: "Naming the groups", saving: "Saving",
};

// began() is told of one that goes on; finished(run) of one that ended while it was followed.
export function runProgress({ began, finished }) {
  const words = element("p", { class: "cs-discover-stage" });
  const bar = element("progress", { "aria-label": "Progress of the discovery" });
  const stop = element("button", { type: "button", class: "cs-button", onclick: stopIt }, "Stop");
  const node = element("div", { class: "cs-discover-run", hidden: true }, words, bar, stop);
  let running = false;
  let followed = false;
  let timer = 0;

  function show(run) {
    running = run?.state === "running";
    node.hidden = !running;
    if (!running) return;
    const known = run.total > 0;
    const said = `${STAGES[run.stage] ?? "Beginning"} …`;
    if (words.textContent !== said) words.textContent = said;
    if (known) { bar.max = run.total; bar.value = run.done; } else bar.removeAttribute("value");
  }

  // Follows the run that goes on, if there is one.
  async function follow(run) {
    clearTimeout(timer);
    const was = running || run?.state === "running";
    try {
      const newest = run ?? (await ask("api/discover")).run;
      show(newest);
      if (running) { if (!followed) { followed = true; began(); } timer = setTimeout(() => follow(), EVERY); }
      else { followed = false; if (was && newest) finished(newest); }
    } catch (error) {
      if (!was) return; // no index: told elsewhere
      words.textContent = error.message;
      timer = setTimeout(() => follow(), 4 * EVERY);
    }
  }

  async function stopIt() {
    stop.disabled = true;
    words.textContent = "Stopping …";
    try { await tell("api/discover/stop"); }
    catch (error) { words.textContent = error.message; }
    finally { stop.disabled = false; }
  }

  return { node, follow: (run) => follow(run), get running() { return running; } };
}
