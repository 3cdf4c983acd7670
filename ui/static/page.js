// Loaded with the page: the style sheets, and what all tabs share.
import "./address.js";
import { styleSheet } from "./style_sheet.js";
import "./tab_row.js";

for (const name of ["page", "grid", "detail", "search"]) styleSheet(`${name}.css`);
