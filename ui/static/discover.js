// The Discover tab: which groups of photos there are, and what a person makes of them.

import { askFor } from "./dialog.js";
import { clusterBoard } from "./discover_board.js";
import { clusterPhotos } from "./discover_photos.js";
import { discoverForm } from "./discover_form.js";
import { runProgress } from "./discover_run.js";
import { element } from "./elements.js";
import { counted, day } from "./formats.js";
import { ask, tell } from "./server.js";
import { styleSheet } from "./style_sheet.js";
import { showSearch } from "./tabs.js";

export async function mount(place) {
  styleSheet("discover.css");
  const tab = new DiscoverTab(place);
  await tab.start();
}

class DiscoverTab {
  constructor(place) {
    this.name = null; // of the discovery that is shown
    this.known = []; // all of them
    this.next = "discovered"; // what a new one may be called
    this.shown = null; // the answer of api/discoveries/NAME
    this.loaded = 0;
    this.choice = element("select", { class: "cs-field", "aria-label": "Discovery", onchange: () => this.show(this.choice.value) });
    this.anew = element("button", { type: "button", class: "cs-button", onclick: () => this.openForm() }, "New discovery");
    this.actions = element("div", { class: "cs-discover-actions" });
    this.top = element("div", { class: "cs-discover-top" }, this.choice, this.anew, this.actions);
    this.about = element("div", { class: "cs-note" });
    this.said = element("p", { class: "cs-discover-said", role: "status" });
    this.body = element("div", {});
    this.run = runProgress({ began: () => this.hideForm(), finished: (run) => this.finished(run) });
    this.form = discoverForm({ start: (wish) => this.begin(wish), cancel: () => this.closeForm() });
    this.board = clusterBoard({
      page: (offset, order, find) => this.ask(`?${new URLSearchParams({ offset, order, find, limit: 60 })}`),
      change: (document_) => this.change(document_),
      open: (cluster) => this.openCluster(cluster),
      searchWithin: (cluster) => this.searchWithin(cluster),
    });
    place.replaceChildren(element("section", { class: "cs-discover", "aria-label": "Discover" },
      this.top, this.said, this.about, this.run.node, this.form.node, this.body));
    // What another program or tab has done shows as soon as this one is looked at again.
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && Date.now() - this.loaded > 3000) this.refresh();
    }).observe(place);
  }

  ask(rest = "") { return ask(`api/discoveries/${encodeURIComponent(this.name)}${rest}`); }
  post(what, document_) { return tell(`api/discoveries/${encodeURIComponent(this.name)}/${what}`, document_); }

  async start() {
    await this.list();
    this.run.follow();
  }

  // Which discoveries there are; shows `name`, else the one that was shown, else the newest.
  async list(name = this.name) {
    this.loaded = Date.now();
    let answer;
    try { answer = await ask("api/discoveries"); }
    catch (error) { this.fail(error); return; }
    this.anew.hidden = false;
    this.known = answer.discoveries;
    this.next = answer.next_name;
    const newest = [...this.known].filter((one) => one.usable).sort((a, b) => (a.saved_at < b.saved_at ? 1 : -1))[0];
    const wanted = this.known.find((one) => one.name === name) ?? newest ?? this.known[0];
    this.choice.replaceChildren(...this.known.map((one) => element("option", { value: one.name, selected: one === wanted }, one.name)));
    this.choice.hidden = this.known.length < 1;
    if (wanted) await this.show(wanted.name);
    else this.empty();
  }

  async refresh() {
    this.loaded = Date.now();
    if (!this.run.running) this.run.follow();
    if (this.name === null || this.shown === null) { await this.list(); return; }
    try {
      const now = await this.ask("?limit=1");
      if (now.state !== this.shown.state) await this.list();
    } catch { await this.list(); }
  }

  async show(name, focus = null) {
    this.name = name;
    const one = this.known.find((known) => known.name === name);
    this.actions.replaceChildren();
    if (one && !one.usable) {
      this.shown = null;
      this.about.textContent = `${one.why} Discover anew, or forget it.`;
      this.body.replaceChildren();
      this.actions.replaceChildren(this.button("Forget", () => this.forget()));
      return;
    }
    try {
      this.shown = await this.board.load(focus);
    } catch (error) { this.fail(error); return; }
    this.describe();
    this.body.replaceChildren(this.board.node);
    if (focus !== null) this.board.focus(focus);
  }

  describe() {
    const { shown } = this;
    const { facts } = shown;
    const names = { imagenet: "10,000 nouns", wordnet: "the nouns of WordNet", "own words": "words of your own" }[facts.vocabulary] ?? facts.vocabulary;
    this.about.replaceChildren(...sentence([
      `${counted(shown.total, "group")} of ${counted(shown.images, "photo")}`,
      facts.vocabulary ? `names from ${names}` : "without names",
      facts.where ? `only ${facts.where}` : null,
      `made ${day(facts.made_at)}`,
      shown.edits.length ? counted(shown.edits.length, "change") : null,
      shown.label_sets.length ? `label set ${shown.label_sets.join(", ")}` : null,
    ]));
    if (shown.in_none) {
      this.about.append(" · ", element("button", { type: "button", class: "cs-discover-link", onclick: () => this.openCluster(null) }, `${counted(shown.in_none, "photo")} in no group`));
    }
    this.actions.replaceChildren(
      shown.undo ? this.button("Undo", () => this.undo(), { title: `Undo: ${shown.undo}` }) : "",
      this.button("Save as label set", () => this.saveAs()),
      this.button("Forget", () => this.forget()),
    );
  }

  button(label, onclick, more = {}) { return element("button", { type: "button", class: "cs-button", onclick, ...more }, label); }

  empty() {
    this.name = null;
    this.shown = null;
    this.actions.replaceChildren();
    this.about.textContent = "";
    this.anew.hidden = true; // the form is open
    this.body.replaceChildren();
    this.about.replaceChildren(element("div", { class: "cs-discover-empty" },
      element("h2", {}, "What is in all these photos?"),
      element("p", {}, "Photos that look alike are put into groups, and each group gets a name. Only what the index knows is used: no photo is opened, and none is changed."),
      element("p", { class: "cs-soft" }, "Groups can be renamed, merged, split and saved as labels.")));
    if (!this.run.running) this.openForm();
  }

  fail(error) {
    this.choice.hidden = !this.known.length;
    this.anew.hidden = error.status === 409 && !this.known.length;
    this.actions.replaceChildren();
    this.about.textContent = "";
    this.body.replaceChildren(element("p", { class: "cs-note", role: "alert" }, error.message),
      this.button("Try again", () => this.list()));
  }

  // Making one.
  openForm() { this.form.open(this.next, this.known.length > 0); this.anew.setAttribute("aria-expanded", "true"); }
  hideForm() { this.form.close(); this.anew.setAttribute("aria-expanded", "false"); }
  closeForm() { this.hideForm(); this.anew.focus(); }

  async begin(wish) {
    const { run } = await tell("api/discover", wish);
    this.said.textContent = "";
    this.run.follow(run);
  }

  async finished(run) {
    if (run.state !== "done") { this.say(run.message); if (!this.known.length) this.openForm(); return; }
    await this.list(run.name);
    this.say(`Found ${counted(run.clusters, "group")} in ${counted(run.images, "photo")}, in ${run.seconds} s.${run.message ? ` ${run.message}` : ""}`);
  }

  // Changing one.
  say(text, undo = false) {
    this.said.replaceChildren(text ?? "", ...(undo ? [" ", element("button", { type: "button", class: "cs-discover-link", onclick: () => this.undo() }, "Undo")] : []));
  }

  async change(document_) {
    let done;
    try {
      ({ done } = await this.post("change", { state: this.shown.state, ...document_ }));
    } catch (error) {
      // Somebody else has changed or forgotten it: what there is now is shown behind the question.
      if ([404, 409].includes(error.status)) await this.list();
      throw error;
    }
    await this.show(this.name, document_.kind === "drop" ? null : document_.clusters[0]);
    this.say(`Done: ${done}.`, true);
  }

  async undo() {
    let said;
    try { said = `Undone: ${(await this.post("undo", { state: this.shown.state })).undone}.`; }
    catch (error) { said = error.message; }
    await this.list();
    this.say(said);
  }

  saveAs(note = "Every photo gets its group as a label. The label set follows the groups: rename one here, and its label changes.") {
    const taken = this.shown.label_sets[0];
    return askFor({
      title: "Save as label set", note, action: "Save",
      fields: [
        { name: "name", label: "Name of the label set", value: taken ?? this.name, most: 64, hint: "Letters, digits and - _ ." },
        { name: "replace", label: "Replace a label set of this name", kind: "check" },
      ],
      send: async (values) => {
        const answer = await this.post("label-set", values);
        await this.show(this.name);
        this.say(`Saved as the label set ${answer.label_set}: ${counted(answer.images, "photo")}.`);
        return answer;
      },
    });
  }

  async searchWithin(cluster) {
    let [set] = this.shown.label_sets;
    if (!set) {
      const answer = await this.saveAs("To search within a group, its name becomes a label first. The label set follows the groups from then on.");
      if (answer === null) return;
      set = answer.label_set;
    }
    showSearch({ label: `${set}:${cluster.name}` });
  }

  async forget() {
    const { name } = this;
    const answer = await askFor({
      title: `Forget ${name}?`, danger: true, action: "Forget",
      note: "The groups and the changes made to them go. Photos and label sets stay as they are.",
      send: () => this.post("forget", {}),
    });
    if (answer === null) return;
    this.name = null;
    await this.list();
    this.say(`Forgotten: ${name}.`);
  }

  // The photos of a group; null for those in none.
  openCluster(cluster) {
    const { name } = this;
    this.body.replaceChildren(clusterPhotos({
      cluster: cluster ?? { key: null, name: "In no group", size: this.shown.in_none },
      load: (offset, limit, order) => ask(`api/discoveries/${encodeURIComponent(name)}/images?${new URLSearchParams({
        ...(cluster ? { cluster: cluster.key } : {}), order, offset, limit })}`),
      back: () => { this.body.replaceChildren(this.board.node); if (cluster) this.board.focus(cluster.key); },
      searchWithin: cluster ? () => this.searchWithin(cluster) : null,
    }));
    this.top.scrollIntoView({ block: "nearest" });
  }
}

const sentence = (parts) => [parts.filter(Boolean).join(" · ")];
