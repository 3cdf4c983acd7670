// The points of a map, as api/map/scene sends them: a length, JSON, then columns of numbers.

import { address, Refused } from "./server.js";

// The scene with the clusters of a discovery ("" the newest, "-" none); `known`, where that is it
// still. {tag, about, ids, groups, steps}: a row an image.
export async function fetchScene(clusters, known) {
  const asked = new URLSearchParams(clusters ? { clusters } : {});
  let answer;
  try {
    answer = await fetch(address(`api/map/scene?${asked}`));
  } catch {
    throw new Refused("clipsearch does not answer. Is it still running?", 0);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Refused(told?.error ?? `The server said ${answer.status}.`, answer.status);
  }
  const tag = answer.headers.get("etag");
  if (known && known.tag === tag) return known;
  const data = await answer.arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const { count } = about;
  let at = 4 + length;
  const column = (Kind, numbers) => { const made = new Kind(data, at, numbers); at += made.byteLength; return made; };
  return { tag, about, ids: column(Float64Array, count), groups: column(Int32Array, count), steps: column(Uint16Array, 2 * count) };
}
