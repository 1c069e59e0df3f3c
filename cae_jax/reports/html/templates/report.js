"use strict";
document.documentElement.classList.add("js");

// Tables: a click on the head sorts, empty cells last in both directions.
function compare(a, b) {
  if (a === "" || b === "") return null;
  const x = Number(a), y = Number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sort(table, column, descending) {
  const key = (row) => row.cells[column].dataset.key;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const order = compare(key(a), key(b));
    if (order === null) return (key(a) === "") - (key(b) === "");
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    if (!head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      // numbers are read from the largest down
      const now = head.getAttribute("aria-sort");
      const number = head.classList.contains("number");
      const descending = now === "none" ? number : now === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}

// Filters: a row stays that holds the text and every choice.
for (const form of document.querySelectorAll("form[data-table]")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const search = form.querySelector("input");
  const selects = [...form.querySelectorAll("select")];
  const update = () => {
    const text = search.value.trim().toLowerCase();
    let n = 0;
    for (const row of rows) {
      row.hidden =
        !row.textContent.toLowerCase().includes(text) ||
        selects.some((s) => s.value && row.cells[s.dataset.column].dataset.key !== s.value);
      n += !row.hidden;
    }
    form.querySelector("output").value = `${n} of ${rows.length}`;
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update(); // a browser may bring back what was typed before
}

// Examples: only those of the chosen kind, and no section without one.
for (const form of document.querySelectorAll("form[data-gallery]")) {
  const select = form.querySelector("select");
  const update = () => {
    for (const card of document.querySelectorAll("article.example"))
      card.hidden = select.value !== "" && card.dataset.kind !== select.value;
    for (const section of document.querySelectorAll("section.examples"))
      section.hidden =
        select.value !== "" &&
        section.dataset.kind !== select.value &&
        !section.querySelector("article:not([hidden])");
  };
  form.addEventListener("input", update);
  update();
}

// A link to an example that is filtered away shows it again.
window.addEventListener("hashchange", () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const form = document.querySelector("form[data-gallery]");
  if (form && target && target.hidden) {
    form.reset();
    form.dispatchEvent(new Event("input"));
    target.scrollIntoView();
  }
});

// Theme: what the system wants, or the other one.
const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
  document.documentElement.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
});
