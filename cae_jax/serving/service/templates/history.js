// The last hundred images: a list that is filtered, with pictures that are fetched when seen.

import { amount, byId, element, visible } from "./display.js";
import { ask } from "./service.js";

const thumbnails = new Map(); // id -> address of a Blob

export function picture(id, part) {
  return ask(`/page/pictures/${id}/${part}`, {}, false).then((answer) => answer.blob());
}

export function time(row) {
  return new Date(1000 * row.time).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries)
    if (isIntersecting) {
      seen.unobserve(target);
      fill(target);
    }
}, { rootMargin: "200px" });

async function fill(blank) {
  const id = blank.dataset.id;
  try {
    if (!thumbnails.has(id)) thumbnails.set(id, URL.createObjectURL(await picture(id, "picture")));
  } catch {
    return; // the place stays blank; opening the row says why
  }
  blank.replaceWith(element("img", { src: thumbnails.get(id), alt: "", "data-id": id }));
}

// Shows the rows that the filters let through; open(row) is called for the one clicked.
export function list(rows, current, open) {
  const text = byId("text").value.trim().toLowerCase();
  const verdict = byId("of-verdict").value, review = byId("of-review").value;
  const shown = rows.filter((row) =>
    (!verdict || row.defective === (verdict === "defective")) &&
    (!review || row.review === (review === "none" ? "" : review)) &&
    `${visible(row.name)} ${time(row)}`.toLowerCase().includes(text));
  const focused = document.activeElement?.closest?.("#rows button")?.dataset.id;
  byId("rows").replaceChildren(...shown.map((row) => element("li", {}, button(row, current, open))));
  if (focused) byId("rows").querySelector(`[data-id="${focused}"]`)?.focus();
  byId("count").value = rows.length ? `${shown.length} of ${rows.length} images`
    : "Nothing was judged yet.";
  const kept = new Set(rows.map((row) => row.id));
  for (const [id, url] of thumbnails)
    if (!kept.has(id)) {
      URL.revokeObjectURL(url);
      thumbnails.delete(id);
    }
}

function button(row, current, open) {
  const word = row.defective ? "defective" : "good";
  const url = thumbnails.get(row.id);
  const blank = url ? element("img", { src: url, alt: "" })
    : element("span", { class: "blank", "data-id": row.id });
  if (!url && row.pictures) seen.observe(blank);
  const made = element("button", { type: "button", "data-id": row.id, "aria-current": String(row.id === current) },
    blank,
    element("span", {}, element("bdi", {}, visible(row.name)), element("small", {}, time(row))),
    element("span", {}, element("span", { class: `badge ${word}` }, word)),
    element("span", { class: "score" }, element("span", { class: "label" }, "score "), amount(row.score)),
    element("span", { class: "said" }, element("span", { class: "hidden" }, "operator: "), row.review || "–"));
  made.addEventListener("click", () => open(row));
  return made;
}
