// The model in this browser: from a file's bytes to score, map, mask, as Python computes them.

import * as ort from "./ort.wasm.min.mjs";
import { back, placed } from "./frame.js";
import { pValue, sentence } from "./words.js";

const most = 2 ** 25; // pixels of an image: as float32 in color, 400 MB

export class Model {
  #about;
  #session;

  constructor(about, session) {
    this.#about = about;
    this.#session = session;
  }

  static async load(about, address) {
    // several threads need a page that is isolated, by headers that few servers send
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? 0 : 1;
    ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
    return new Model(about, await ort.InferenceSession.create(address, { executionProviders: ["wasm"] }));
  }

  // Judges a Blob: what the service answers of an image, with map and mask as levels.
  async judge(blob) {
    const { channels, image_size, scale, unseen, frame } = this.#about;
    const [high, wide] = [image_size].flat().length > 1 ? image_size : [image_size, image_size];
    const begun = performance.now();
    const file = await pixels(blob, channels), inside = frame && placed(file, channels, frame, [high, wide]);
    const shape = frame ? [1, high, wide, inside.channels] : [1, file.height, file.width, channels];
    const image = new ort.Tensor("float32", (inside ?? file).data, shape);
    const found = await this.#session.run({ image });
    const score = found.score.data[0], defective = Boolean(found.defective.data[0]);
    const map = found.map.data, top = scale ?? map.reduce((a, b) => Math.max(a, b), 0);
    const levels = Uint8Array.from(map, (value) => Math.min(255, Math.max(0, Math.round(255 * value / top))));
    const p = pValue(unseen, score), least = levels.reduce((a, b) => Math.min(a, b), 255);
    const shown = (data, outside) => {
      const found = { width: wide, height: high, data };
      return frame ? back(found, inside.place, file.height, file.width, outside) : found;
    };
    return {
      score, defective, p_value: p, threshold: this.#about.threshold,
      sentence: sentence(defective, p, unseen.length),
      milliseconds: performance.now() - begun,
      map: shown(levels, least),
      mask: shown(found.mask.data, 0),
    };
  }
}

// The pixels of an image file, float32 [H, W, C] in [0, 1], as Pillow decodes them: upright, colors
// as they are in the file, gray by Pillow's own luma. What a browser would alter is refused.
export async function pixels(blob, channels) {
  const head = new Uint8Array(await blob.slice(0, 26).arrayBuffer());
  const begins = (...bytes) => bytes.every((byte, i) => head[i] === byte);
  const isPng = begins(0x89, 0x50, 0x4e, 0x47);
  if (!isPng && !begins(0xff, 0xd8, 0xff) && !begins(0x42, 0x4d))
    throw new Error("This page reads PNG, JPEG and BMP.");
  if (isPng && head[24] === 16)
    throw new Error("A browser reads 8 bits of this 16-bit image only: use the service, or Python.");
  const text = await blob.text();
  if (/tiff:Orientation(="|>)[2-8]/.test(text))
    throw new Error("Browsers do not read that this image is to be turned, as its XMP says: use the service, or Python.");
  if (isPng && text.includes("\0\0\0\x08acTL")) throw new Error("This image has several frames; one is expected.");
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob,
      { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error("This file cannot be decoded: it is damaged, or no image.");
  }
  const { width, height } = bitmap;
  if (width * height > most) {
    bitmap.close();
    throw new Error(`This image has ${width} x ${height} pixels, this page takes ${most} in all.`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Float32Array(width * height * channels);
  for (let i = 0, at = 0; i < rgba.length; i += 4) {
    if (rgba[i + 3] !== 255)
      throw new Error("A browser alters the colors of transparent pixels: save the image without them.");
    if (channels === 1)
      data[at++] = ((19595 * rgba[i] + 38470 * rgba[i + 1] + 7471 * rgba[i + 2] + 32768) >> 16) / 255;
    else for (let k = 0; k < 3; k++) data[at++] = rgba[i + k] / 255;
  }
  return { width, height, data };
}
