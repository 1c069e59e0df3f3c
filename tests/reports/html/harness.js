// What a reader does, done in the page; test_html_report.py reads what came of it from #result.
// All at once when the page has loaded, images too: --dump-dom waits for that and no longer.
addEventListener("load", () => {
  const images = [...document.images];
  const table = document.getElementById("images"), form = document.querySelector("[data-table]");
  const column = (i) => [...table.tBodies[0].rows].filter((row) => !row.hidden)
    .map((row) => row.cells[i].dataset.key);
  const head = (i) => table.tHead.rows[0].cells[i];
  const sorts = () => [...table.tHead.rows[0].cells].map((cell) => cell.getAttribute("aria-sort"));
  const choose = (element, value) => {
    element.value = value;
    element.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const result = { images: images.map((image) => image.naturalWidth), initial: column(5) };
  head(5).querySelector("button").click();
  Object.assign(result, { up: column(5), sorts: sorts() });
  head(6).querySelector("button").click();
  result.p = column(6);
  head(1).querySelector("button").click();
  result.paths = column(1);
  choose(form.querySelector("select"), 'scr"atch');
  Object.assign(result, { kinds: column(2), said: form.querySelector("output").value });
  choose(form.querySelector("select"), "");
  choose(form.querySelector("input"), " SCRIPT>");
  result.found = column(1);
  choose(document.querySelector("[data-gallery] select"), "good");
  result.cards = [...document.querySelectorAll("article")].filter((card) => card.checkVisibility())
    .map((card) => card.dataset.kind);
  document.getElementById("theme").click();
  document.getElementById("theme").click();
  document.body.style.width = "390px"; // a headless window does not get as narrow as a phone
  Object.assign(result, { dark: getComputedStyle(document.body).backgroundColor,
    wide: document.body.scrollWidth,
    hacked: window.hacked === undefined ? "no" : "yes" });
  const out = document.createElement("pre");
  out.id = "result";
  out.textContent = btoa(encodeURIComponent(JSON.stringify(result)));
  document.body.append(out);
});
