// The run: how far it is, stopping it, and its account at the end.
import { element } from "./elements.js";
import { count, counted } from "./formats.js";
import { address, ask, tell } from "./server.js";

const ENDED = ["done", "failed", "cancelled"];
const EVERY_MS = 1000;

// A length of time, as roughly as it is known.
function span(seconds) {
  if (seconds < 90) return counted(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 90 * 60) return counted(Math.round(seconds / 60), "minute");
  return counted(Math.round(seconds / 3600), "hour");
}

function rate(perSecond) {
  return `${perSecond >= 10 ? count(Math.round(perSecond)) : perSecond} images a second`;
}

function account(report) {
  const parts = [`${counted(report.new, "new image")} of ${counted(report.found, "file")} found`];
  if (report.copies) parts.push(counted(report.copies, "copy", "copies"));
  if (report.moved) parts.push(`${counted(report.moved, "file")} had moved`);
  if (report.skipped) parts.push(`${count(report.skipped)} skipped`);
  if (report.ignored) parts.push(`${count(report.ignored)} ignored (no images)`);
  if (report.missing) parts.push(`${counted(report.missing, "known file")} not there now`);
  const found = `${parts.join(", ")}.`;
  return report.new && report.verdict ? `${found} ${rate(report.images_per_second)} (${report.verdict}).` : found;
}

const headings = {
  looking: (run) => `Looking through ${run.title}`,
  encoding: (run) => `Indexing ${run.title}`,
  finishing: (run) => `Indexing ${run.title}: almost done`,
  done: (run) => `Indexed ${run.title}`,
  cancelled: (run) => `Stopped indexing ${run.title}`,
  failed: (run) => `Could not index ${run.title}`,
};

function words(run) {
  if (run.state === "done") return account(run.report);
  if (run.state === "failed") return run.error;
  if (run.state === "cancelled") {
    return run.saved
      ? `${counted(run.saved, "image")} of this run were finished, and are kept. Index the folder again to go on.`
      : "Nothing of this run was finished yet. Index the folder again to start over.";
  }
  if (run.stopping) return "Stopping: saving what is finished ...";
  if (run.state === "encoding") {
    const left = run.seconds_left === null ? "" : `, about ${span(run.seconds_left)} left`;
    // What holds it up: reading the photos ("decode"), the model ("encode") or the disk ("write").
    const verdict = run.verdict ? ` (${run.verdict})` : "";
    return `${count(run.done)} of ${counted(run.total, "image")}${left}${verdict}`;
  }
  return run.state === "looking" ? "Finding out what is new ..." : "Saving ...";
}

// Draws into `place`. say(words) tells a screen reader; saved() and ended() are called when more
// can be searched; fail(error) when the server does not answer.
export function runView(place, { say, fail, saved, ended }) {
  const heading = element("h2", { id: "cs-index-run" });
  const bar = element("progress", { class: "cs-index-bar", "aria-labelledby": "cs-index-run" });
  const line = element("p", { class: "cs-index-line" });
  const stop = element("button", { type: "button", class: "cs-button", onclick: cancel }, "Stop");
  // Loaded anew: what the other tabs show is of before.
  const search = element("a", { class: "cs-button cs-primary cs-index-search", href: address("."), hidden: true }, "Search the photos");
  place.replaceChildren(heading, bar, line, stop, search);
  let timer = 0;
  let number = 0;
  let state = "";
  let kept = 0;

  async function cancel() {
    stop.disabled = true;
    try { follow(await tell("api/indexing/cancel"), false); } catch (error) { fail(error); }
  }

  async function look() {
    try { follow(await ask("api/indexing/run"), false); } catch (error) { fail(error); timer = setTimeout(look, 5 * EVERY_MS); }
  }

  // Show `run`, a document of api/indexing/run, and go on asking while it runs.
  function follow(run, begun) {
    clearTimeout(timer);
    place.hidden = run === null;
    if (run === null) return;
    const isNew = run.number !== number;
    const over = ENDED.includes(run.state);
    const before = state;
    if (isNew) { [number, kept] = [run.number, run.saved]; }
    state = run.state;
    heading.textContent = headings[run.state](run);
    line.textContent = words(run);
    bar.hidden = over;
    if (run.state === "encoding" && run.total) { bar.max = run.total; bar.value = run.done; } else { bar.removeAttribute("value"); }
    stop.hidden = over || run.state === "finishing";
    stop.disabled = run.stopping;
    search.hidden = !over || !(run.saved || run.report?.new);
    if (isNew || state !== before) say(over ? `${heading.textContent}. ${line.textContent}` : heading.textContent);
    if (over) {
      if (!isNew && !ENDED.includes(before)) ended();
      return;
    }
    if (!isNew && run.saved > kept) { kept = run.saved; saved(); }
    timer = setTimeout(look, EVERY_MS);
    if (begun) place.scrollIntoView({ block: "nearest" });
  }
  return { follow };
}
