// Where images come from: dropped, chosen, pasted, or a frame of the camera.

import { byId, complain } from "./display.js";
import { Camera } from "./camera.js";

const most = 16;

// Calls take(files) with what came; what did not is said in one line.
export function intake(take) {
  const accept = (files) => {
    const found = [...files];
    if (found.length === 0) return;
    const left = found.length - most;
    complain("refused", left > 0
      ? `${found.length} images came, and ${most} are taken at once: the first ${most} are judged, ` +
        `give the other ${left} again.` : "");
    take(found.slice(0, most));
  };
  byId("pick").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", (event) => {
    accept(event.target.files);
    event.target.value = ""; // so the same file can be chosen again
  });
  const root = document.documentElement;
  addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) root.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page and show the file
    root.classList.remove("dropping");
    if (event.dataTransfer.files.length === 0) complain("refused", "What was dropped is no file.");
    accept(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => accept(event.clipboardData.files));
  camera(accept);
}

function camera(accept) {
  const live = new Camera(byId("video"));
  const show = (on) => {
    byId("live").hidden = !on;
    byId("camera").hidden = on;
  };
  byId("camera").addEventListener("click", async () => {
    byId("camera").disabled = true;
    complain("refused", "");
    try {
      await live.start();
      show(true);
      byId("frame").focus();
    } catch (error) {
      complain("refused", error.message);
    }
    byId("camera").disabled = false;
  });
  byId("frame").addEventListener("click", async () => {
    try {
      accept([await live.frame()]);
    } catch (error) {
      complain("refused", error.message);
    }
  });
  byId("stop").addEventListener("click", () => {
    live.stop();
    show(false);
    byId("camera").focus();
  });
}
