// The operator's page: images go to the service one by one, and what it says is shown and kept.

import { amount, byId, complain, element, levels, ofDataUri, Stage, visible } from "./display.js";
import { chart } from "./chart.js";
import { list, picture, time } from "./history.js";
import { intake } from "./intake.js";
import { ask } from "./service.js";
import { Strip, verdict } from "./strip.js";

const together = 4; // requests at a time
const every = 5000; // milliseconds after which others' images are looked for
const soon = 2000; // milliseconds after which a model that is being loaded is asked for again
const verbs = { agree: "Agree", "false alarm": "False alarm: it is good", missed: "Missed: it is defective" };

let models = [], reviews = {}, stage;
let rows = []; // of the history, newest first
let current = null; // what is on the stage: an item of the strip, or a row

const model = () => models.find((each) => each.name === byId("model").value) ?? models[0];
const idOf = (shown) => shown?.result?.id ?? shown?.id;

// --- images given ---

const strip = new Strip(judge, together, open, (item) => {
  strip.draw(current);
  if (current === item) open(item);
  refresh();
});

async function judge(item) {
  let content;
  try {
    content = new Blob([await item.file.arrayBuffer()], { type: item.file.type });
  } catch {
    throw new Error("This file cannot be read.");
  }
  const body = new FormData();
  body.append("image", content, item.name);
  const path = `/predict?model=${encodeURIComponent(item.model)}&map=1`;
  const answer = await (await ask(path, { method: "POST", body })).json();
  const [result] = answer.results;
  if (result.status !== 200) throw new Error(`${result.status}: ${result.error}`);
  item.version = answer.model.version;
  const [map, mask] = await Promise.all([result.map, result.mask].map((uri) =>
    uri ? levels(ofDataUri(uri)) : null));
  return { ...result, map, mask };
}

// --- the stage ---

async function open(shown) {
  current = shown;
  complain("review-trouble", "");
  strip.draw(current);
  past();
  legend(shown.model, shown.version);
  review();
  await (shown.file ? strip.show(stage, shown) : openRow(shown));
}

async function openRow(row) {
  verdict(row, row.name, [["time", time(row)], ["model", row.model], ["version", row.version || "–"]]);
  if (!row.pictures) return stage.show(null, null, null, row.name);
  try {
    const [image, map, mask] = await Promise.all(["picture", "map", "mask"].map((part) => picture(row.id, part)));
    if (current === row) await stage.show(image, await levels(map), await levels(mask), row.name);
  } catch (error) {
    await stage.show(null, null, null, row.name);
    complain("review-trouble", error.message);
  }
}

// An image that another version judged, or one that is not served, has a scale that is not known.
function legend(name, version) {
  const of = models.find((each) => each.name === name && (version ?? each.version) === each.version);
  stage.legend(of?.scale ?? null, of?.distance ?? "score");
}

// --- what the operator says ---

function review() {
  const id = idOf(current), root = byId("review");
  root.hidden = !id;
  if (!id) return;
  const told = current.result ?? current;
  const said = rows.find((row) => row.id === id)?.review ?? told.review ?? "";
  root.replaceChildren(element("span", {}, "Is that right?"),
    ...reviews[told.defective ? "defective" : "good"].map((word) => {
      const made = element("button", { type: "button", "aria-pressed": String(word === said) }, verbs[word]);
      // the second click of a double click would take back what the first one said
      made.addEventListener("click", ({ detail }) => detail < 2 && say(id, word === said ? "" : word));
      return made;
    }));
}

async function say(id, word) {
  const focused = [...byId("review").children].indexOf(document.activeElement);
  try {
    await ask("/page/review", { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id, review: word }) });
    complain("review-trouble", "");
    const row = rows.find((each) => each.id === id);
    if (row) row.review = word;
    for (const told of [current, ...strip.items.map((item) => item.result)])
      if (told && told.id === id) told.review = word;
  } catch (error) {
    complain("review-trouble", error.message);
  }
  review();
  byId("review").children[focused]?.focus();
  past();
}

// --- the history ---

function past() {
  const id = idOf(current);
  list(rows, id, open);
  const alike = rows.filter((row) => row.version === model().version).reverse(); // oldest first
  if (alike.length === 0) {
    byId("chart").replaceChildren(element("p", { class: "note" },
      "Scores appear here once this version of the model has judged images."));
    byId("chart-said").replaceChildren();
    return;
  }
  chart(byId("chart"), alike, model(), id, open);
  const key = (style, text) => element("span", { class: "key" }, element("i", { class: style }), text);
  const band = model().n >= 19 ? "where 9 in 10 good parts lie" : `where the ${model().n} good parts lay`;
  byId("chart-said").replaceChildren(key("dot good", "called good"), key("dot defective", "called defective"),
    key("line", "threshold"), ...(model().band ? [key("band", band)] : []));
}

async function refresh(own = false) {
  const name = model().name;
  try {
    const answer = await (await ask(`/page/history?model=${encodeURIComponent(name)}`, {}, own)).json();
    if (name !== model().name) return;
    const changed = JSON.stringify(rows) !== JSON.stringify(answer.rows);
    rows = answer.rows;
    if (answer.version !== null && answer.version !== model().version) await renewed();
    complain("history-trouble", "");
    complain("drift", answer.drift);
    if (changed) past();
  } catch (error) {
    complain("history-trouble", `The history is not up to date. ${error.message}`);
  }
}

async function download() {
  try {
    const blob = await (await ask("/page/history.csv")).blob();
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: "history.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    complain("history-trouble", "");
  } catch (error) {
    complain("history-trouble", error.message);
  }
}

// --- the model ---

function about() {
  const of = model();
  document.title = visible(of.title);
  byId("title").textContent = visible(of.title);
  byId("about").textContent = visible([of.method, `${[of.image_size].flat().join(" x ")} pixels`,
    `threshold ${amount(of.threshold)}, ${of.chosen_on}`].join(" · "));
}

// The service has another version of the model now.
async function renewed() {
  ({ models } = await (await ask("/page/models", {}, false)).json());
  about();
  past(); // the chart shows scores of this version alone
}

async function start() {
  const told = await (await ask("/page/models")).json();
  if (told.models.length === 0) {
    setTimeout(begin, soon);
    throw new Error("No model is served yet: this page looks again by itself.");
  }
  ({ models, reviews } = told);
  stage = new Stage(told.ramp);
  byId("model").replaceChildren(...models.map((each) => element("option", { value: each.name }, visible(each.name))));
  byId("choice").hidden = models.length === 1;
  byId("model").addEventListener("change", () => {
    rows = [];
    about();
    past();
    refresh(true);
  });
  byId("filters").addEventListener("input", past);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("csv").addEventListener("click", download);
  new ResizeObserver(() => rows.length && past()).observe(byId("chart").parentElement);
  about();
  past();
  await refresh();
  setInterval(() => document.visibilityState === "visible" && refresh(), every);
  intake((files) => strip.take(files, { model: model().name }));
  document.documentElement.classList.add("ready");
}

async function begin() {
  try {
    await start();
    complain("trouble", "");
  } catch (error) {
    complain("trouble", error.message);
    const button = element("button", { type: "button" }, "Try again");
    button.addEventListener("click", begin);
    byId("trouble").append(" ", button);
  }
}

begin();
