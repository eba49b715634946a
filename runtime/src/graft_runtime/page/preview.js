// A small copy of an image, so that a list of hundreds needs little memory.

const SIDE = 640; // pixels of the longer side

/** {url, width, height} of an upright copy, and the size of the whole; null where the browser cannot read it. */
export async function preview(file) {
  let whole;
  try {
    whole = await createImageBitmap(file);
  } catch {
    return null; // TIFF, say: the server may still know it
  }
  const { width, height } = whole, scale = Math.min(1, SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // transparency is laid on white, as for the model
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  return blob && { url: URL.createObjectURL(blob), width, height };
}
