// The device's camera: a live view, and a frame of it as a PNG file.

export class Camera {
  #video;

  constructor(video) {
    this.#video = video;
  }

  async start() {
    if (!navigator.mediaDevices)
      throw new Error("Browsers give the camera only to https:// pages and to localhost.");
    const wanted = { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } };
    try {
      this.#video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
    } catch (error) {
      const why = { NotAllowedError: "it was not allowed", NotFoundError: "there is none",
        NotReadableError: "another program has it" }[error.name];
      throw new Error(`The camera cannot be used: ${why ?? error.name}.`);
    }
    await this.#video.play();
  }

  stop() {
    for (const track of this.#video.srcObject?.getTracks() ?? []) track.stop();
    this.#video.srcObject = null;
  }

  async frame() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    if (!width) throw new Error("The camera has not sent a frame yet.");
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/png" }); // without loss
    const now = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
    return new File([blob], `camera ${now}.png`, { type: blob.type });
  }
}
