// The page without a server: tests itself, then judges what it is given, all in this browser.

import { amount, byId, complain, Stage, visible } from "./display.js";
import { intake } from "./intake.js";
import { Model } from "./model.js";
import { Strip } from "./strip.js";

const close = 1e-4; // of the sample's score, relative: what float arithmetic may differ by

// Says whether this browser computes what Python did; false where images must not be judged.
async function selfTest(model, expected) {
  const sample = await (await fetch("sample.png")).blob();
  const found = await model.judge(sample);
  const far = Math.abs(found.score - expected.score) / Math.abs(expected.score || 1);
  const same = far <= close && found.defective === expected.defective;
  byId("selftest").className = `selftest ${same ? "good" : "defective"}`;
  byId("selftest").textContent = same
    ? `Self-test passed: of the sample image this browser says what Python said, score ${amount(expected.score)}.`
    : `Self-test failed: of the sample image this browser says score ${found.score}, Python said ` +
      `${expected.score}. Nothing is judged.`;
  return same;
}

async function start() {
  byId("as-file").hidden = true;
  const about = await (await fetch("about.json")).json();
  document.title = visible(about.title);
  byId("title").textContent = visible(about.title);
  byId("about").textContent = visible([about.method, `${[about.image_size].flat().join(" x ")} pixels`,
    `threshold ${amount(about.threshold)}, ${about.chosen_on}`].join(" · "));
  const model = await Model.load(about, "model.onnx");
  if (!(await selfTest(model, about.expected))) return;
  const stage = new Stage(about.ramp);
  stage.legend(about.scale, about.distance);
  let current = null;
  const open = (item) => {
    current = item;
    strip.draw(current);
    strip.show(stage, item);
  };
  const strip = new Strip((item) => model.judge(item.file), 1, open, (item) =>
    item === current ? open(item) : strip.draw(current));
  intake((files) => strip.take(files));
  document.documentElement.classList.add("ready");
}

start().catch((error) => complain("trouble", `The page cannot start: ${error.message}`));
