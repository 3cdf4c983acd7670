// The Index tab: what the index holds, indexing, and what was skipped.
import { element } from "./elements.js";
import { folderChoice } from "./index_folders.js";
import { runView } from "./index_run.js";
import { skippedView } from "./index_skipped.js";
import { statusView } from "./index_status.js";
import { ask, tell } from "./server.js";
import { styleSheet } from "./style_sheet.js";

styleSheet("index.css");

export async function mount(place) {
  const status = element("section", { class: "cs-index-part", "aria-labelledby": "cs-index-status" });
  const run = element("section", { class: "cs-index-part", "aria-labelledby": "cs-index-run", hidden: true });
  const add = element("section", { class: "cs-index-part", "aria-labelledby": "cs-index-add" });
  const skipped = element("section", { class: "cs-index-part", "aria-labelledby": "cs-index-skipped", hidden: true });
  const wrong = element("p", { class: "cs-index-wrong", role: "alert" });
  const said = element("p", { class: "cs-hidden", role: "status" });
  place.replaceChildren(element("div", { class: "cs-index-page" }, wrong, run, status, add, skipped, said));

  const watched = runView(run, {
    say: (words) => { said.textContent = words; },
    fail: (error) => { wrong.textContent = error.message; },
    // What was indexed can be searched while the run goes on: the counts follow.
    saved: () => refresh(),
    ended: () => refresh(),
  });

  async function start(body) {
    wrong.textContent = "";
    try {
      watched.follow(await tell("api/indexing/run", body), true);
      await refresh();
    } catch (error) { wrong.textContent = error.message; }
  }

  async function refresh() {
    let known;
    try {
      known = await ask("api/indexing");
    } catch (error) {
      wrong.textContent = error.message;
      return;
    }
    statusView(status, known, { update: () => start({ update: true }) });
    folderChoice(add, known, { start });
    skippedView(skipped, known.status?.skipped ?? 0);
    watched.follow(known.run, false);
    // The header and the other tabs show what is there, too.
    document.dispatchEvent(new CustomEvent("cs:index", { detail: known.status }));
  }

  // Others may index from elsewhere: what is shown is of now whenever the tab is opened.
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) refresh();
  }).observe(place);
  await refresh();
}
