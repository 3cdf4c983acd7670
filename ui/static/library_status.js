// What the library is: asked once for the whole page, and again from time to time by the header.
// The document hears "cs:library" with the new status when the index has changed.

import { ask, keepPictures } from "./server.js";

let asked = null;
let generation = null;
let known = null; // the number of it

export function libraryStatus({ anew = false } = {}) {
  if (anew || !asked) {
    asked = ask("api/status");
    asked.then(take, () => { asked = null; });
  }
  return asked;
}

// An answer tells of a generation that may be newer than what is known here.
export function noticed(answered) {
  if (known !== null && answered > known) libraryStatus({ anew: true }).catch(() => {});
}

function take(status) {
  keepPictures(status.key);
  const now = `${status.key} ${status.generation}`;
  if (generation !== null && generation !== now) document.dispatchEvent(new CustomEvent("cs:library", { detail: status }));
  generation = now;
  known = status.generation ?? null;
}
