// The camera: open, flip, stop, and one frame at a time.

import { Problem } from "./problem";

export type Facing = "environment" | "user";

export class Camera {
  facing: Facing = "environment";
  private stream: MediaStream | null = null;

  constructor(private readonly video: HTMLVideoElement) {}

  get open(): boolean {
    return this.stream !== null;
  }

  /** Throws Problem for each way in which a camera can be missing. */
  async start(facing: Facing = this.facing) {
    this.stop();
    if (!navigator.mediaDevices?.getUserMedia) throw new Problem("cameraInsecure");
    this.facing = facing;
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { facingMode: { ideal: facing }, width: { ideal: 640 }, height: { ideal: 480 } },
      });
      this.video.srcObject = this.stream;
      await this.video.play();
    } catch (error) {
      this.stop();
      const name = error instanceof DOMException ? error.name : "";
      if (name === "NotAllowedError" || name === "SecurityError") throw new Problem("cameraDenied");
      if (name === "NotFoundError" || name === "OverconstrainedError") throw new Problem("cameraMissing");
      throw new Problem("cameraBusy");
    }
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** Whether there is a second camera to switch to. Known only after the first was allowed. */
  async hasOther(): Promise<boolean> {
    const devices = await navigator.mediaDevices.enumerateDevices().catch(() => []);
    return devices.filter(({ kind }) => kind === "videoinput").length > 1;
  }

  frame(): Promise<ImageBitmap> {
    return createImageBitmap(this.video);
  }
}
