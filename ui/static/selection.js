// Which photos are selected: a set of ids that tells when it changes.

export class Selection extends EventTarget {
  #ids = new Set();

  get size() { return this.#ids.size; }
  ids() { return [...this.#ids]; }
  has(id) { return this.#ids.has(id); }

  set(ids, selected) {
    const before = this.#ids.size;
    for (const id of ids) { if (selected) this.#ids.add(id); else this.#ids.delete(id); }
    if (this.#ids.size !== before) this.dispatchEvent(new Event("change"));
  }

  toggle(id) { this.set([id], !this.has(id)); }
  clear() { this.set(this.ids(), false); }
}
