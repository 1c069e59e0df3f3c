// What an image is brought to before the model sees it, and back again: as data/frame.py does it.

const most = 2 ** 20; // pixels of a map that is drawn over its file

// To the nearest whole number, halves to the even one, as Python rounds.
function rounded(value) {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

// Where a file of that height and width lies: what of it is looked at, and where that is in the
// frame [high, wide]; both as [top, left, bottom, right], in pixels.
function place({ resize, roi, size, masks }, [high, wide], height, width) {
  if (size && (size[0] !== height || size[1] !== width))
    throw new Error(`${masks.map((flag) => `--${flag}`).join(" and ")} is for images of ${size[1]} x ${size[0]} ` +
      `pixels (width x height), this one has ${width} x ${height}.`);
  const [left, top, wideIn, highIn] = roi ?? [0, 0, width, height];
  const bottom = top + highIn, right = left + wideIn;
  if (bottom > height || right > width)
    throw new Error(`--roi=${roi} (x, y, width, height) reaches out of this image of ${width} x ${height} ` +
      "pixels (width x height).");
  if (resize === "none" && (highIn !== high || wideIn !== wide))
    throw new Error(`This image is ${highIn} x ${wideIn} pixels (height x width), and --resize=none takes ` +
      `${high} x ${wide} alone.`);
  if (resize === "crop") {
    const scale = Math.max(high / highIn, wide / wideIn);
    const down = (highIn - high / scale) / 2, along = (wideIn - wide / scale) / 2;
    return { from: [top + down, left + along, bottom - down, right - along], to: [0, 0, high, wide] };
  }
  if (resize !== "pad") return { from: [top, left, bottom, right], to: [0, 0, high, wide] };
  const scale = Math.min(high / highIn, wide / wideIn);
  const [h, w] = [highIn, wideIn].map((side) => Math.max(1, rounded(side * scale)));
  const y = Math.floor((high - h) / 2), x = Math.floor((wide - w) / 2);
  return { from: [top, left, bottom, right], to: [y, x, y + h, x + w] };
}

// Pillow's antialiased bilinear filter: for each of `out` pixels where its weights begin, and what
// they are, of `inside` pixels between two ends that need not be whole.
function weights(inside, begin, end, out) {
  const [low, high] = [Math.fround(begin), Math.fround(end)]; // as Pillow has them
  const scale = Math.fround(high - low) / out, reach = Math.max(scale, 1);
  return Array.from({ length: out }, (_, at) => {
    const center = low + (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(inside, Math.trunc(center + reach + 0.5));
    const shares = Array.from({ length: last - first },
      (_, i) => Math.max(0, 1 - Math.abs((i + first - center + 0.5) / reach)));
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => share / sum) };
  });
}

// A part of pixels [H, W, C] resized, the rest cut away before: along the rows, then down.
function resized({ width, data }, channels, [top, left, bottom, right], high, wide) {
  const [y, x] = [Math.floor(top), Math.floor(left)];
  const [rows, columns] = [Math.ceil(bottom) - y, Math.ceil(right) - x];
  const along = weights(columns, left - x, right - x, wide), down = weights(rows, top - y, bottom - y, high);
  const narrow = new Float32Array(rows * wide * channels), found = new Float32Array(high * wide * channels);
  const add = (shares, from, at, step) => shares.reduce((sum, share, i) => sum + share * from[at + i * step], 0);
  for (let row = 0, to = 0; row < rows; row++)
    for (const { first, shares } of along)
      for (let k = 0; k < channels; k++)
        narrow[to++] = add(shares, data, ((row + y) * width + x + first) * channels + k, channels);
  for (let row = 0, to = 0; row < high; row++)
    for (let column = 0; column < wide * channels; column++)
      found[to++] = add(down[row].shares, narrow, down[row].first * wide * channels + column, wide * channels);
  return found;
}

// What counts of a frame, one byte a pixel: of masks what Python found, else what lies in `to`.
function counts({ counts }, [high, wide], [top, left, bottom, right]) {
  const bytes = counts && Uint8Array.from(atob(counts), (char) => char.charCodeAt(0));
  return Uint8Array.from({ length: high * wide }, (_, i) => {
    if (bytes) return (bytes[i >> 3] >> (7 - (i & 7))) & 1;
    const y = Math.floor(i / wide), x = i % wide;
    return y >= top && y < bottom && x >= left && x < right ? 1 : 0;
  });
}

// An image {width, height, data: float32 [H, W, C]} as the model takes it: {data, channels, place},
// with a channel more where not all of it counts. What does not count holds the mean of the rest.
export function placed(image, channels, frame, [high, wide]) {
  const at = place(frame, [high, wide], image.height, image.width);
  const [top, left, bottom, right] = at.to;
  const inside = resized(image, channels, at.from, bottom - top, right - left);
  if (!frame.partial) return { data: inside, channels, place: at };
  const counted = counts(frame, [high, wide], at.to), n = counted.reduce((a, b) => a + b, 0);
  const mean = new Float64Array(channels), data = new Float32Array(high * wide * (channels + 1));
  const source = (y, x, k) => inside[((y - top) * (right - left) + x - left) * channels + k];
  const each = (act) => {
    for (let y = 0, i = 0; y < high; y++) for (let x = 0; x < wide; x++, i++) act(y, x, i, counted[i]);
  };
  each((y, x, i, of) => { if (of) for (let k = 0; k < channels; k++) mean[k] += source(y, x, k) / n; });
  each((y, x, i, of) => {
    for (let k = 0; k < channels; k++) data[i * (channels + 1) + k] = of ? source(y, x, k) : mean[k];
    data[i * (channels + 1) + channels] = of;
  });
  return { data, channels: channels + 1, place: at };
}

// Levels of a frame {width, height, data} where they lie in their file; `outside` for the rest.
export function back(levels, { from, to }, height, width, outside) {
  const [h, w] = [from[2] - from[0], from[3] - from[1]];
  const [down, along] = [(to[2] - to[0]) / h, (to[3] - to[1]) / w];
  const less = Math.min(1, Math.sqrt(most / (height * down * width * along)));
  const [high, wide] = [height * down, width * along].map((side) => Math.max(1, Math.round(side * less)));
  const data = new Uint8Array(high * wide).fill(outside);
  for (let y = 0; y < high; y++)
    for (let x = 0; x < wide; x++) {
      const row = ((y + 0.5) / high) * height - from[0], column = ((x + 0.5) / wide) * width - from[1];
      if (row < 0 || column < 0 || row >= h || column >= w) continue;
      const [i, j] = [to[0] + Math.floor(row * down), to[1] + Math.floor(column * along)];
      data[y * wide + x] = levels.data[i * levels.width + j];
    }
  return { width: wide, height: high, data };
}
