// How an image, its heat map, its mask and its verdict are shown, with a service and without one.

const byId = (id) => document.getElementById(id);
export { byId };

// Text in which everything can be seen, as the report has it: what does not print (control
// characters, bidirectional overrides, lone surrogates) is shown as its escape.
export function visible(text) {
  return [...String(text)].map((char) => {
    if (char === " " || !/[\p{C}\p{Z}]/u.test(char)) return char;
    const short = { "\t": "\\t", "\n": "\\n", "\r": "\\r" }[char];
    if (short) return short;
    const code = char.codePointAt(0), hex = (digits) => code.toString(16).padStart(digits, "0");
    return code < 256 ? `\\x${hex(2)}` : code < 65536 ? `\\u${hex(4)}` : `\\U${hex(8)}`;
  }).join("");
}

// A number to four digits, a large one in full; a dash where it is not known.
export function amount(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (value === "inf" || value === Infinity) return "∞";
  if (value === "-inf" || value === -Infinity) return "-∞";
  if (Number.isInteger(value) || Math.abs(value) >= 1000)
    return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(4)));
}

// An element with attributes and children; text is text, whatever is in it.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  made.append(...children);
  return made;
}

// One line where something went wrong; "" takes it away.
export function complain(id, line) {
  byId(id).textContent = visible(line);
  byId(id).hidden = line === "";
}

// A picture's levels, {width, height, data: Uint8Array}, from a gray PNG.
export async function levels(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  return { width, height, data: Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i]) };
}

export function ofDataUri(uri) {
  const text = atob(uri.slice(uri.indexOf(",") + 1));
  const type = uri.slice(5, uri.indexOf(";"));
  return new Blob([Uint8Array.from(text, (char) => char.charCodeAt(0))], { type });
}

// The outline of a mask as an SVG path along the pixels' edges.
export function outline({ width, height, data }) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] > 0;
  const parts = [];
  for (let y = 0; y <= height; y++)
    for (let x = 0; x < width; x++) {
      const from = x;
      while (x < width && inside(x, y) !== inside(x, y - 1)) x++;
      if (x > from) parts.push(`M${from} ${y}H${x}`);
    }
  for (let x = 0; x <= width; x++)
    for (let y = 0; y < height; y++) {
      const from = y;
      while (y < height && inside(x, y) !== inside(x - 1, y)) y++;
      if (y > from) parts.push(`M${x} ${from}V${y}`);
    }
  return parts.join("");
}

// The stage: image, heat map on the model's one scale, outline; the legend; the verdict.
export class Stage {
  #ramp;
  #url = "";
  #last = 0;

  constructor(ramp) {
    this.#ramp = ramp;
    const opacity = byId("opacity");
    const update = () => {
      byId("heat").style.opacity = opacity.value / 100;
      byId("opacity-said").value = `${opacity.value} %`;
    };
    opacity.addEventListener("input", update);
    byId("outlined").addEventListener("change", (event) => {
      byId("outline").style.visibility = event.target.checked ? "visible" : "hidden";
    });
    update();
    const context = byId("ramp").getContext("2d");
    const row = context.createImageData(256, 1);
    ramp.forEach((color, i) => row.data.set([...color, 255], 4 * i));
    context.putImageData(row, 0, 0);
  }

  // The numbers under the colors; null where the model's scale is not known.
  legend(scale, distance) {
    const ends = scale === null ? ["low", "high"]
      : [0, 0.25, 0.5, 0.75, 1].map((part) => (part < 1 ? amount(part * scale) : `≥ ${amount(scale)}`));
    byId("ticks").replaceChildren(...ends.map((end) => element("span", {}, end)));
    byId("ramp").setAttribute("aria-label", `colors from ${ends[0]} to ${ends.at(-1)}`);
    byId("scale-said").textContent =
      `How far each place is from good (${distance}): one scale of colors for every image of this model.`;
  }

  // Shows an image (a Blob or null), map and mask ({width, height, data} or null).
  async show(picture, map, mask, name) {
    const turn = ++this.#last;
    byId("stage").hidden = false;
    const url = picture ? URL.createObjectURL(picture) : "";
    const size = await decoded(url);
    if (turn !== this.#last) { // another image was asked for meanwhile
      if (url) URL.revokeObjectURL(url);
      return;
    }
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = url;
    const image = byId("picture");
    image.hidden = size === null;
    if (size) image.src = url;
    else image.removeAttribute("src");
    image.alt = `image ${visible(name)}`;
    const ratio = size ? size.width / size.height : map ? map.width / map.height : 1;
    byId("layers").style.setProperty("--ratio", ratio);
    byId("layers").hidden = !size && !map;
    byId("unseen").hidden = size !== null;
    byId("unseen").textContent = picture ? "This browser cannot show this kind of image."
      : "The image itself is not kept any more.";
    this.#heat(map);
    const over = byId("outline");
    over.toggleAttribute("hidden", !mask);
    if (mask) over.setAttribute("viewBox", `0 0 ${mask.width} ${mask.height}`);
    const path = mask ? outline(mask) : "";
    for (const each of over.children) each.setAttribute("d", path);
  }

  #heat(map) {
    const canvas = byId("heat");
    canvas.hidden = !map;
    if (!map) return;
    Object.assign(canvas, { width: map.width, height: map.height });
    const context = canvas.getContext("2d", { willReadFrequently: true }); // written alone, not drawn
    const colored = context.createImageData(map.width, map.height);
    map.data.forEach((level, i) => colored.data.set([...this.#ramp[level], 255], 4 * i));
    context.putImageData(colored, 0, 0);
  }
}

// The size of what an address shows, once it is decoded; null where it cannot be.
async function decoded(url) {
  if (!url) return null;
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return null;
  }
  return { width: image.naturalWidth, height: image.naturalHeight };
}

// Says the verdict: kind is "good", "defective", "waiting" or "failed"; facts are [label, text].
export function tell(kind, name, word, meaning, facts) {
  byId("stage").hidden = false;
  byId("name").textContent = visible(name);
  byId("word").className = `word ${kind}`;
  byId("word").textContent = word;
  byId("meaning").textContent = visible(meaning);
  byId("facts").replaceChildren(...facts.map(([label, text]) =>
    element("div", {}, element("dt", {}, label), element("dd", {}, text))));
}
