"use strict";
document.documentElement.classList.add("js");

// Tables: a click on the head sorts, empty cells last in both directions.
const collator = new Intl.Collator(undefined, { numeric: true });

function compare(a, b) {
  if (a === "" || b === "") return null;
  const x = Number(a), y = Number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return collator.compare(a, b);
}

// A row of data, see markup.Table.data; its element is made when it is first shown.
function made(first, data) {
  const cells = data.map((cell) => (typeof cell === "string" ? [cell, cell] : cell));
  let element = null;
  const row = () => {
    if (element) return element;
    element = first.cloneNode(true);
    cells.forEach(([text, key, html], i) => {
      const td = element.cells[i], inner = td.firstElementChild;
      td.dataset.key = key;
      if (html !== undefined) td.innerHTML = html; // of a template, which escapes
      else (inner && inner.tagName === "BDI" ? inner : td).textContent = text;
    });
    return element;
  };
  return { key: (i) => cells[i][1], text: cells.map((cell) => cell[0]).join("\n").toLowerCase(), row };
}

function standing(element) {
  const key = (i) => element.cells[i].dataset.key;
  return { key, text: element.textContent.toLowerCase(), row: () => element };
}

const models = new Map();

function model(table) {
  const box = table.closest(".scroll"), data = box.nextElementSibling;
  const body = table.tBodies[0], elements = [...body.rows];
  const long = data && data.matches("script[type='application/json']");
  const all = long
    ? JSON.parse(data.textContent).map((cells) => made(elements[0], cells))
    : elements.map(standing);
  const size = long ? elements.length : Infinity;
  let kept = all, page = 0;
  const draw = () => {
    const from = page * size || 0; // of no row, 0 times Infinity
    body.replaceChildren(...kept.slice(from, from + size).map((each) => each.row()));
    if (!long) return;
    const pager = data.nextElementSibling, last = Math.min(from + size, kept.length);
    pager.querySelector("output").value = kept.length ? `${from + 1} to ${last} of ${kept.length}` : "none";
    for (const button of pager.querySelectorAll("button")) {
      const next = page + Number(button.dataset.step);
      button.disabled = next < 0 || next * size >= kept.length;
    }
  };
  if (long) {
    for (const button of data.nextElementSibling.querySelectorAll("button"))
      button.addEventListener("click", () => {
        page += Number(button.dataset.step);
        draw();
        box.scrollTop = 0;
      });
    draw();
  }
  let keep = () => true;
  const show = () => { kept = all.filter(keep); page = 0; draw(); return kept.length; };
  return {
    length: all.length,
    filter: (test) => { keep = test; return show(); },
    sort: (column, descending) => {
      all.sort((a, b) => {
        const x = a.key(column), y = b.key(column), order = compare(x, y);
        if (order === null) return (x === "") - (y === "");
        return descending ? -order : order;
      });
      show();
    },
  };
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const of = model(table);
  models.set(table, of);
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
      of.sort(column, descending);
    });
  });
}

// Filters: a row stays that holds the text and every choice.
for (const form of document.querySelectorAll("form[data-table]")) {
  const of = models.get(document.getElementById(form.dataset.table));
  const search = form.querySelector("input");
  const selects = [...form.querySelectorAll("select")];
  const update = () => {
    const text = search.value.trim().toLowerCase();
    const n = of.filter(
      (row) => row.text.includes(text) && selects.every((s) => !s.value || row.key(s.dataset.column) === s.value),
    );
    form.querySelector("output").value = `${n} of ${of.length}`;
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

// Contents: where the reader is.
const links = new Map(
  [...document.querySelectorAll("nav a[href^='#']")].map((a) => [document.getElementById(a.hash.slice(1)), a]),
);
const watcher = new IntersectionObserver((seen) => {
  const here = seen.find((each) => each.isIntersecting);
  if (!here) return;
  for (const a of links.values()) a.removeAttribute("aria-current");
  const a = links.get(here.target);
  a.setAttribute("aria-current", "true");
  a.parentElement.scrollTo({ left: a.offsetLeft - 40 });
}, { rootMargin: "-20% 0px -75% 0px" });
for (const section of links.keys()) if (section) watcher.observe(section);

// Theme: what the system wants, or the other one.
const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
  document.documentElement.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
});
