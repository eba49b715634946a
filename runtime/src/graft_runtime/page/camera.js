// An image from the camera: in the page where it may, else by the phone's own camera program.
import { say } from "./language.js";

const get = (id) => document.getElementById(id);
let count = 0;

/** Shows the buttons that work here; calls `take(files)` for each image. */
export function camera(take) {
  const inside = Boolean(navigator.mediaDevices?.getUserMedia); // only on https and localhost
  get("camera").hidden = !inside;
  const phone = !inside && matchMedia("(pointer: coarse)").matches;
  for (const id of ["snap", "snap-label"]) get(id).hidden = !phone;
  if (!inside) return;

  const dialog = get("viewfinder"), video = get("video");
  let facing = "environment";
  get("camera").addEventListener("click", () => (dialog.showModal(), start()));
  get("turn").addEventListener("click", () => ((facing = facing === "user" ? "environment" : "user"), start()));
  get("take").addEventListener("click", async () => {
    const file = await snapshot(video);
    dialog.close();
    take([file]);
  });
  dialog.addEventListener("close", () => stop());

  async function start() {
    stop();
    get("take").disabled = true;
    get("video-fault").hidden = true;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, width: { ideal: 1920 } } });
      if (!dialog.open) return stream.getTracks().forEach((track) => track.stop());
      video.srcObject = stream;
      await video.play();
      get("take").disabled = false;
      const devices = await navigator.mediaDevices.enumerateDevices();
      get("turn").hidden = devices.filter((each) => each.kind === "videoinput").length < 2;
    } catch (error) {
      if (error.name === "AbortError") return; // closed, or turned, while it was starting
      const key = { NotAllowedError: "camRefused", NotFoundError: "camNone" }[error.name] ?? "camFailed";
      get("video-fault").textContent = say(key, { why: error.message });
      get("video-fault").hidden = false;
    }
  }

  function stop() {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  }
}

async function snapshot(video) {
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return new File([blob], `camera-${++count}.jpg`, { type: "image/jpeg" });
}
