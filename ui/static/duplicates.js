// The Duplicates tab: groups of files of which one would do, and lists of the others. Nothing is
// deleted from here.

import { duplicateGroup } from "./duplicate_group.js";
import { element } from "./elements.js";
import { bytes, count, counted } from "./formats.js";
import { Refused, address, ask } from "./server.js";
import { styleSheet } from "./style_sheet.js";

const KINDS = {
  exact: ["The same file", "Files with the same bytes, whatever they are called."],
  copy: ["The same picture", "One picture resized, recompressed, lightly cropped or edited, or with other tags."],
  burst: ["Bursts", "Shots of one scene, seconds apart. They are different pictures: look before you choose."],
};
const LISTS = {
  "others txt": "Paths to part with, one a line", "keep txt": "Paths to keep, one a line",
  "all csv": "Everything as a table (CSV)", "all json": "Everything as JSON, a group a line",
};
const EVERY = 1000;

export function mount(place) {
  styleSheet("discover.css");
  styleSheet("duplicates.css");
  const tab = new DuplicatesTab(place);
  // Looking for them takes time on a large collection: only once somebody looks at the tab.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    tab.show("exact");
  }).observe(place);
}

class DuplicatesTab {
  constructor(place) {
    this.kind = "exact";
    this.found = null; // the newest answer of api/duplicates
    this.groups = []; // that are shown
    this.choices = new Map(); // group -> file to keep, null for all; what is suggested is not in it
    this.turn = 0;
    this.kinds = Object.entries(KINDS).map(([kind, [label]]) =>
      element("button", { type: "button", class: "cs-button", "aria-pressed": "false", dataset: { kind }, onclick: () => this.show(kind) }, label));
    this.about = element("p", { class: "cs-note" });
    this.summary = element("p", { class: "cs-duplicates-summary", role: "status" });
    this.form = element("select", { class: "cs-field", "aria-label": "What to list" }, Object.entries(LISTS).map(([value, label]) => element("option", { value }, label)));
    this.save = element("button", { type: "button", class: "cs-button cs-primary", onclick: () => this.download() }, "Download the list");
    this.again = element("button", { type: "button", class: "cs-button", onclick: () => this.show(this.kind, true) }, "Look again");
    this.tools = element("div", { class: "cs-duplicates-tools" }, this.form, this.save, this.again);
    this.problem = element("p", { class: "cs-dialog-problem", role: "alert" });
    this.list = element("ol", { class: "cs-duplicates-groups" });
    this.end = element("div", {});
    place.replaceChildren(element("section", { class: "cs-duplicates", "aria-label": "Duplicates" },
      element("div", { class: "cs-duplicates-kinds", role: "group", "aria-label": "Which duplicates" }, this.kinds),
      this.about, this.summary, this.tools, this.problem, this.list, this.end));
    this.tools.hidden = true;
    this.scroll = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { this.scroll.unobserve(this.end); this.more(); }
    }, { rootMargin: "900px 0px" });
  }

  ask(offset, again = false) {
    return ask(`api/duplicates?${new URLSearchParams({ kind: this.kind, offset, limit: 20, ...(again ? { again: true } : {}) })}`);
  }

  async show(kind, again = false) {
    const mine = ++this.turn;
    this.kind = kind;
    for (const button of this.kinds) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    this.about.textContent = `${KINDS[kind][1]} Nothing is ever deleted here.`;
    this.problem.textContent = "";
    this.tools.hidden = true;
    this.scroll.unobserve(this.end);
    this.list.replaceChildren();
    this.summary.textContent = "Looking …";
    try {
      let answer = await this.ask(0, again);
      while (answer.running && mine === this.turn) {
        await new Promise((resolve) => setTimeout(resolve, EVERY));
        if (mine === this.turn) answer = await this.ask(0);
      }
      if (mine !== this.turn) return;
      this.found = answer;
      this.groups = [];
      this.choices.clear();
      this.take(answer);
    } catch (error) {
      if (mine !== this.turn) return;
      this.summary.textContent = "";
      this.problem.textContent = error.message;
    }
  }

  take(answer) {
    this.groups.push(...answer.groups);
    this.list.append(...answer.groups.map((group) => duplicateGroup(group, {
      more: (offset) => ask(`api/duplicates/files?${new URLSearchParams({ kind: this.kind, search: this.found.search, group: group.group, offset })}`),
      choose: (file) => this.choose(group, file),
    })));
    this.describe();
    if (this.groups.length < answer.total && answer.groups.length) this.scroll.observe(this.end);
  }

  async more() {
    const mine = this.turn;
    try {
      const answer = await this.ask(this.groups.length);
      if (mine !== this.turn) return;
      if (answer.running || answer.search !== this.found.search) { this.show(this.kind); return; }
      this.take(answer);
    } catch (error) { this.problem.textContent = error.message; }
  }

  // file : to keep instead, 0 for what is suggested, null for all of them.
  choose(group, file) {
    if (file === 0) this.choices.delete(group.group); else this.choices.set(group.group, file);
    this.describe();
  }

  describe() {
    const { found } = this;
    const left = found.changed ? ` ${counted(found.changed, "file")} left out: gone or changed since indexed.` : "";
    this.tools.hidden = !found.total;
    if (!found.total) {
      this.summary.textContent = `No duplicates of this kind were found.${left}`;
      return;
    }
    let [files, freed] = [found.files, found.bytes_to_free];
    for (const group of this.groups) {
      const choice = this.choices.get(group.group);
      if (choice === undefined) continue;
      if (choice === null) { files -= group.total - 1; freed -= group.bytes_to_free; }
      else freed += group.files[0].bytes - group.files.find((one) => one.file === choice).bytes;
    }
    this.summary.textContent = `${counted(found.total, "group")}. Without ${counted(files, "file")}, ${bytes(Math.max(0, freed))} would be free.${left}`;
    const kept = [...this.choices.values()].filter((choice) => choice === null).length;
    if (kept) this.summary.append(` ${count(kept)} kept whole.`);
  }

  async download() {
    const [list, format] = this.form.value.split(" ");
    this.problem.textContent = "";
    this.save.disabled = true;
    try {
      const answer = await fetch(address("api/duplicates/list"), {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ kind: this.kind, search: this.found.search, list, format, choices: Object.fromEntries(this.choices) }),
      });
      if (!answer.ok) throw new Refused((await answer.json()).error, answer.status);
      const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "duplicates.txt";
      const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      const inside = Number(answer.headers.get("Clipsearch-Left-Out") ?? 0);
      if (inside) this.problem.textContent = `${counted(inside, "image")} inside tar or Parquet files left out: they cannot be moved by themselves.`;
    } catch (error) {
      this.problem.textContent = error instanceof Refused ? error.message : "The list could not be fetched. Is clipsearch still running?";
    } finally { this.save.disabled = false; }
  }
}
