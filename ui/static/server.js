// Asking the server: addresses relative to the page (it may live below a path), errors as words.

export const address = (path) => new URL(path, document.baseURI).href;

// Pictures under the key of their index may be kept by the browser for good.
let version = "";
export function keepPictures(key) { if (key) version = `?v=${encodeURIComponent(key)}`; }
export const thumbnail = (id) => address(`media/thumbnail/${id}${version}`);
export const preview = (id) => address(`media/preview/${id}${version}`);

export class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

// POST `body` as JSON to `path`; answers and throws as ask() does.
export const tell = (path, body = {}) => ask(path, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

// JSON from `path`; throws Refused with a sentence for a person.
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("clipsearch does not answer. Is it still running?", 0);
  }
  if (answer.status === 401) { location.reload(); }
  let document_ = null;
  try { document_ = await answer.json(); } catch { /* no JSON: told below */ }
  if (!answer.ok) throw new Refused(document_?.error ?? `The server said ${answer.status}.`, answer.status);
  return document_;
}
