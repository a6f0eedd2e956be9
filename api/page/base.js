"use strict";

// ---- Bounds, each with its reason --------------------------------------------------------------------------------

const REFRESH_MS = 2_000;        // how often the page asks while it is visible
const TIMEOUT_MS = 10_000;       // an answer that takes longer counts as none
const FIGURES_AGE_MS = 10_000;   // figures are asked for again after this even where nothing seems to have changed
const STALE_SECONDS = 120;       // a watermark further behind than this is stale
const RATE_SECONDS = 12;         // lines per second are averaged over this
const MAX_MINUTES = 366 * 1440;  // the longest range that the API takes
const MANY_LOST = 0.1;           // a share of late or rejected lines that people should hear of
const EXAMPLES = 100;            // lines set aside that the dialog lists
const DEPTHS = [10, 20, 50, 100, 1000];
const MAX_DEPTH = 1000;

// ---- Small things ------------------------------------------------------------------------------------------------

const at = (id) => document.getElementById(id);

/** Sets a text only where it differs: no needless layout, and no repeated announcement. */
function put(node, text) {
  const value = String(text ?? "");
  if (node.textContent !== value) node.textContent = value;
}

function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  node.append(...children.filter((child) => child != null));
  return node;
}

const THIN = "\u202f";
const number = (n) => Number.isFinite(n) ? String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, THIN) : "–";
const decimal = (n) => n >= 100 || Number.isInteger(n) ? number(n) : n >= 10 ? n.toFixed(1) : n.toFixed(2);
const percent = (part, all) => all > 0 ? `${decimalPlaces(100 * part / all)}${THIN}%` : "";
const decimalPlaces = (p) => p === 0 ? "0" : p < 0.01 ? "<0.01" : p < 1 ? p.toFixed(2) : p < 99.95 ? p.toFixed(1) : p < 100 ? ">99.9" : "100";
const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;

/** What a reader cannot see but a browser would obey is shown as a sign. */
const visible = (text) => String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
  (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

