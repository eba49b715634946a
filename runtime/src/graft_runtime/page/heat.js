// A saliency map as a layer over its image: dark where little speaks for the class, yellow where most does.

const SIDE = 160; // pixels of the longer side; the browser smooths the rest

/** Draw {rows, columns, values} into a canvas. What speaks against the class counts as nothing. */
export function paint(canvas, { rows, columns, values }) {
  const scale = SIDE / Math.max(rows, columns);
  canvas.width = Math.round(columns * scale);
  canvas.height = Math.round(rows * scale);
  const across = weights(canvas.width, columns), down = weights(canvas.height, rows);
  const smooth = new Float32Array(canvas.width * canvas.height);
  let most = 0;
  for (let y = 0; y < canvas.height; y++)
    for (let x = 0; x < canvas.width; x++) {
      let sum = 0;
      for (const [row, high] of down[y]) for (const [column, wide] of across[x]) sum += high * wide * Math.max(0, values[row * columns + column]);
      most = Math.max(most, (smooth[y * canvas.width + x] = sum));
    }
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  smooth.forEach((value, at) => image.data.set(colour(most ? value / most : 0), 4 * at));
  context.putImageData(image, 0, 0);
}

/** Of each pixel the four places around it, and how much each counts: a cubic B-spline, which never overshoots. */
function weights(pixels, places) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const at = ((pixel + 0.5) / pixels) * places - 0.5, first = Math.floor(at), t = at - first;
    const own = [(1 - t) ** 3, 3 * t ** 3 - 6 * t ** 2 + 4, -3 * t ** 3 + 3 * t ** 2 + 3 * t + 1, t ** 3];
    return own.map((weight, tap) => [Math.min(places - 1, Math.max(0, first - 1 + tap)), weight / 6]);
  });
}

/** Lightness alone tells it, so that it can be read without seeing colours: from a dark veil over none to yellow. */
function colour(value) {
  if (value < 0.5) return [10, 14, 30, 255 * 0.72 * (1 - value / 0.5)];
  return [255, 196, 0, 255 * 0.62 * ((value - 0.5) / 0.5)];
}
