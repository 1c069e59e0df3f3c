// The images given: judged a few at a time, each with its verdict or what went wrong.

import { amount, byId, element, tell, visible } from "./display.js";

const kept = 48; // images given that stay in the strip, and those that are not judged yet

export class Strip {
  items = []; // newest first: {file, name, url, image, state, result, error}, state waiting|judged|failed
  #judge;
  #together;
  #open;
  #done;
  #running = 0;
  #drawn = []; // items, as they were drawn last

  // judge(item) promises a result, as the service has it, with map and mask as levels; `together`
  // of them run at a time; open(item) is called to show one, done(item) when one was judged.
  constructor(judge, together, open, done) {
    this.#judge = judge;
    this.#together = together;
    this.#open = open;
    this.#done = done;
  }

  take(files, more = {}) {
    const fresh = files.map((file) => {
      const url = URL.createObjectURL(file), image = element("img", { src: url, alt: "" });
      image.addEventListener("error", () => image.classList.add("blank"));
      return { file, name: file.name, url, image, state: "waiting", ...more };
    });
    this.items = [...fresh, ...this.items];
    this.#forget();
    this.#open(fresh[0]);
    this.#next();
  }

  #forget() {
    const old = this.items.filter((each, i) => i >= kept && each.state === "judged");
    for (const each of old) URL.revokeObjectURL(each.url);
    this.items = this.items.filter((each) => !old.includes(each));
  }

  #next() {
    while (this.#running < this.#together) {
      const item = this.items.find((each) => each.state === "waiting" && !each.sent);
      if (!item) return;
      item.sent = true;
      this.#running += 1;
      this.#try(item).finally(() => {
        this.#running -= 1;
        this.#forget();
        this.#done(item);
        this.#next();
      });
    }
  }

  async #try(item) {
    try {
      item.result = await this.#judge(item);
      item.state = "judged";
    } catch (error) {
      Object.assign(item, { error: error.message, state: "failed" });
    }
  }

  #again(item) {
    Object.assign(item, { state: "waiting", sent: false, error: "" });
    this.#open(item);
    this.#next();
  }

  draw(current) {
    const focused = [...byId("items").querySelectorAll(".item")].indexOf(document.activeElement);
    const again = focused < 0 ? null : this.#drawn[focused];
    this.#drawn = [...this.items];
    byId("items").replaceChildren(...this.items.map((item) => {
      const word = { judged: item.result?.defective ? "defective" : "good", failed: "not judged",
        waiting: "waiting …" }[item.state];
      const style = item.state === "judged" ? word : item.state;
      const made = element("button", { type: "button", class: "item", "aria-current": String(item === current) },
        item.image, element("bdi", {}, visible(item.name)), element("span", { class: `badge ${style}` }, word));
      made.addEventListener("click", () => this.#open(item));
      const parts = [made];
      if (item.state === "failed") parts.push(element("p", { class: "trouble" }, visible(item.error)));
      return element("li", {}, ...parts);
    }));
    byId("items").querySelectorAll(".item")[this.items.indexOf(again)]?.focus();
  }

  // Shows an item on the stage.
  show(stage, item) {
    const { result, state, name } = item;
    if (state === "waiting") tell("waiting", name, "Looking at it …", "", []);
    if (state === "failed") {
      tell("failed", name, "Not judged", item.error, []);
      const button = element("button", { type: "button" }, "Try again");
      button.addEventListener("click", () => this.#again(item));
      byId("meaning").append(" ", button);
    }
    if (state === "judged") verdict(result, name, [["judged in", `${amount(result.milliseconds)} ms`],
      ...(result.warning ? [["warning", result.warning]] : [])]);
    return stage.show(item.file, result?.map ?? null, result?.mask ?? null, name);
  }
}

// Says a verdict, of an item's result or of a row of the history; `more` are further facts.
export function verdict(told, name, more) {
  const kind = told.defective ? "defective" : "good";
  const meaning = told.sentence.replace(/^(Good|Defective): /, "");
  tell(kind, name, kind, meaning.charAt(0).toUpperCase() + meaning.slice(1), [
    ["score", amount(told.score)],
    ["threshold: defective above it", amount(told.threshold)],
    ["p-value: share of good parts at least this unusual", amount(told.p_value)], ...more]);
}
