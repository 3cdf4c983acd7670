// Labels against the whole collection: the run and its progress, the chart, the galleries, what can
// be done with the result.

import { resultActions } from "./classify_actions.js";
import { element } from "./elements.js";
import { count, counted } from "./formats.js";
import { photoGrid } from "./grid.js";
import { choices } from "./label_choices.js";
import { labelChart } from "./label_chart.js";
import { ask, tell } from "./server.js";

const NONE = { key: "none", parameters: { without: "true" }, quiet: "none" };
const ALL = { key: "all", parameters: {}, quiet: "all" };
const ended = (run) => ["done", "failed", "stopped"].includes(run.state);

// collectionRun({form, saved}) -> {node, button, start(), offer(sources), say(text)}
export function collectionRun({ form, saved }) {
  let run = null;
  let going = null; // token of the run that goes on
  let latest = null; // what was begun last: an earlier one tells nothing any more
  let picked = ALL;
  let images = null;
  let sources = { images: null, sets: [] };

  const button = element("button", { type: "submit", class: "cs-button cs-primary cs-classify-go" }, "Classify the photos");
  const stop = element("button", { type: "button", class: "cs-button", onclick: () => { if (going) tell(`api/classify/${going}/stop`).catch(() => {}); } }, "Stop");
  const bar = element("progress", { class: "cs-classify-progress", "aria-label": "Progress" });
  const stage = element("p", { class: "cs-classify-stage" });
  const spoken = element("p", { class: "cs-hidden", role: "status" }); // always there, so that it is read out
  const progress = element("div", { class: "cs-classify-running", hidden: true }, stage, bar, stop);
  const hello = element("div", { class: "cs-classify-hello" });
  const notes = element("ul", { class: "cs-classify-notes" });
  const summary = element("p", { class: "cs-classify-summary" });
  const chart = labelChart({ pick: (row) => open(row) });
  const heading = element("h2", { class: "cs-classify-heading" });
  const order = choices({ label: "Order of the photos", options: [["best", "Best first"], ["doubtful", "Doubtful first"]], value: "best", change: () => grid.reload() });
  const grid = photoGrid({
    selectable: true,
    load: (offset, limit, signal) => (run
      ? ask(`api/classify/${run.run}/images?${new URLSearchParams({ ...picked.parameters, order: order.value(), offset, limit })}`, { signal })
      : { hits: [], total: 0 }),
    empty: () => (picked.quiet === "none" ? "Every photo has one of the labels." : "No photo has this label."),
    caption: (hit) => caption(hit, picked, order.value()),
  });
  const actions = resultActions({ selection: grid.selection, run: () => run, replaced, saved, refuse: (words) => form.refuse(words), again: (set) => { form.choose("set", set); return startWith({ set }); } });
  const result = element("div", { class: "cs-classify-result", hidden: true },
    summary, notes, chart.node, actions.node,
    element("div", { class: "cs-classify-gallery" },
      element("div", { class: "cs-classify-row" }, heading, order.node), actions.teaching, grid.node));
  const node = element("div", {}, spoken, hello, progress, result);

  function offer(told) {
    sources = told;
    const found = (images = told.images);
    actions.sets(told.sets.map((one) => one.name));
    button.disabled = !found;
    button.textContent = found ? `Classify ${counted(found, "photo")}` : "Classify the photos";
    if (run || latest) return;
    hello.replaceChildren(...(found ? [
      element("h2", {}, "Every photo gets the label that fits it best"),
      element("p", {}, `Type a few labels and press the button: all ${counted(found, "photo")} are sorted by them. A bar then shows how many each label has; press it to see the photos, the doubtful ones first if you like. What fits none of the labels is kept apart.`),
    ] : found === 0 ? [element("h2", {}, "The index holds no photos yet"), element("p", {}, "Add a folder in the Index tab, then come back.")] : [
      element("h2", {}, "There is no index yet"),
      element("p", {}, "Make one, and start the page with it:"),
      element("pre", { class: "cs-classify-command" }, "clipsearch index FOLDER --index photos.index\nclipsearch ui photos.index"),
      element("p", {}, "One image can be labelled without an index: choose “One image” above the labels."),
    ]));
  }

  async function start() {
    const body = form.question();
    if (body) await startWith(body);
  }

  async function startWith(body) {
    if (going) await tell(`api/classify/${going}/stop`).catch(() => {});
    const mine = {};
    latest = mine;
    show({ state: "waiting", done: 0, total: 0 });
    try {
      let now = await tell("api/classify", { ...body, wait: 0.4 });
      going = now.run;
      while (!ended(now) && latest === mine) {
        show(now);
        now = await ask(`api/classify/${now.run}?wait=0.4`);
      }
      if (latest !== mine) return;
      // What was there before a run that was stopped stays.
      if (now.state === "done") finish(now);
    } catch (error) {
      if (latest !== mine) return;
      form.refuse(error.message);
    } finally {
      if (latest === mine) {
        latest = going = null;
        progress.hidden = true;
        result.removeAttribute("aria-busy");
        if (!run) offer(sources);
      }
    }
  }

  function show(now) {
    progress.hidden = false;
    hello.replaceChildren();
    result.setAttribute("aria-busy", "true");
    const words = { waiting: "Waiting for its turn …", words: "Reading the labels", images: "Looking at the photos" }[now.state] ?? "";
    if (spoken.textContent !== words) spoken.textContent = words;
    stage.textContent = now.total ? `${words}: ${count(now.done)} of ${count(now.total)}` : words;
    if (now.total) { bar.max = now.total; bar.value = now.done; } else bar.removeAttribute("value");
  }

  function finish(now) {
    replaced(now);
    const labelled = now.images - now.unlabelled;
    const seconds = now.seconds < 0.1 ? "less than 0.1 s" : `${now.seconds.toFixed(1)} s`;
    const outcome = now.unlabelled
      ? `${count(labelled)} of ${counted(now.images, "photo")} ${labelled === 1 ? "has" : "have"} one of the ${counted(now.labels.length, "label")}; ${count(now.unlabelled)} ${now.unlabelled === 1 ? "is" : "are"} none of these.`
      : `All ${counted(now.images, "photo")} have one of the ${counted(now.labels.length, "label")}.`;
    summary.textContent = `${outcome} Scored in ${seconds}${now.examples ? `, taught by ${counted(now.examples, "example")}` : ""}.`;
    spoken.textContent = summary.textContent;
    notes.replaceChildren(...now.notes.map((note) => element("li", {}, note)));
    const rows = now.labels.map((one) => ({ key: `label:${one.label}`, name: one.label, count: one.count, share: one.share, parameters: { label: one.label } }));
    const total = Math.max(1, now.images);
    const shown = [...rows,
      { ...NONE, name: "None of these", count: now.unlabelled, share: now.unlabelled / total },
      { ...ALL, name: "All photos", count: now.images, share: 1 }];
    chart.show(shown);
    result.hidden = false;
    grid.selection.clear();
    const first = shown.find((row) => row.count) ?? shown[0];
    chart.choose(first.key);
    open(first);
    // On a phone the result is below the labels.
    if (node.getBoundingClientRect().top > innerHeight * 0.7) node.scrollIntoView({ block: "start" });
  }

  // A run as it is now: saved, or made anew.
  function replaced(now) {
    run = now;
    actions.show(now);
  }

  function open(row) {
    picked = row;
    grid.selection.clear();
    heading.textContent = `${row.name} · ${counted(row.count, "photo")}`;
    actions.picked(row);
    grid.reload();
  }

  return { node, button, start, offer, say: (words) => { form.refuse(words); } };
}

const percent = (odds) => (odds >= 0.9995 ? "100 %" : odds >= 0.1 ? `${(100 * odds).toFixed(odds > 0.99 ? 1 : 0)} %` : `${(100 * odds).toFixed(1)} %`);

function caption(hit, picked, order) {
  if (hit.label === null) return [element("span", { class: "cs-when" }, hit.runner_up ? `nearest: ${hit.runner_up}` : "none")];
  const parts = [element("span", { class: "cs-score cs-plain" }, percent(hit.score))];
  if (picked.quiet === "all") parts.push(element("span", { class: "cs-when" }, hit.label));
  if (order === "doubtful" && hit.runner_up) parts.push(element("span", { class: "cs-when" }, `or ${hit.runner_up}`));
  return parts;
}
