// Going on from one photo to a search, from any tab.

import { showSearch } from "./tabs.js";

const TERMS = ["q", "plus", "not", "like", "unlike"];
let asked = new URLSearchParams(location.search); // what the Search tab shows, or is about to

export const rememberSearch = (parameters) => { asked = new URLSearchParams(parameters); };
export const currentSearch = () => new URLSearchParams(asked);

// Photos like these, under the filters that are set.
export function moreLike(...ids) {
  const parameters = currentSearch();
  for (const name of [...TERMS, "sort", "cut"]) parameters.delete(name);
  for (const id of ids) parameters.append("like", String(id));
  showSearch(parameters);
}

// What is asked now, but away from this photo.
export function lessLike(id) {
  const parameters = currentSearch();
  parameters.delete("sort");
  parameters.delete("cut");
  const kept = parameters.getAll("like").filter((value) => value.split("^")[0] !== String(id));
  parameters.delete("like");
  for (const value of kept) parameters.append("like", value);
  if (!parameters.getAll("unlike").includes(String(id))) parameters.append("unlike", String(id));
  showSearch(parameters);
}
