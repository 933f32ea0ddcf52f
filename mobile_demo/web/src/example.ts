// What a multimodal model gets beside the picture: a text field, and a switch for each modality that says
// whether it is present.

import type { Exported, Modality } from "./exported";
import type { Layout } from "./layout";
import { IMAGE, PRESENT } from "./layout";
import { say } from "./strings";
import { element } from "./view";
import { encode } from "./words";

interface Part {
  modality: Modality;
  present: boolean;
  text: string;
}

export class Example {
  private parts: Part[] = [];

  constructor(private readonly changed: () => void) {}

  /** Take the modalities of an export; none for a model of pictures alone. */
  take(exported: Exported | null) {
    this.parts = (exported?.modalities ?? []).map((modality) => ({ modality, present: false, text: "" }));
    this.show();
  }

  /** The switch of the picture follows what the person opened. */
  pictureOpened(open: boolean) {
    for (const part of this.parts) if (part.modality.kind === "image") part.present = open;
    this.show();
  }

  get multimodal(): boolean {
    return this.parts.length > 0;
  }

  /** Whether the model can be asked with what there is. */
  ready(hasPicture: boolean): boolean {
    return this.multimodal ? this.parts.some(({ present }) => present) : hasPicture;
  }

  /** The inputs beside the picture, by name. Of a file without a manifest: nothing but the picture is present. */
  inputs(layout: Layout): Record<string, Float32Array | Int32Array> {
    const inputs: Record<string, Float32Array | Int32Array> = {};
    for (const { modality, text } of this.parts) {
      const place = layout.inputs.find(({ name }) => name === modality.name);
      if (modality.kind === "text" && place) {
        inputs[modality.name] = encode(text, modality.words, place.shape[1]).ids;
      }
    }
    const place = layout.inputs.find(({ name }) => name === PRESENT);
    if (place) {
      const known = this.parts.length === place.shape[1];
      const order = layout.inputs.filter(({ name }) => name !== PRESENT);
      inputs[PRESENT] = known
        ? Float32Array.from(this.parts, ({ present }) => Number(present))
        : Float32Array.from({ length: place.shape[1] }, (_, i) => Number(order[i]?.name === IMAGE));
    }
    return inputs;
  }

  /** Draw the fields again, in the chosen language; what was typed stays. */
  show() {
    element("example").hidden = !this.multimodal;
    const list = element("modalities");
    list.innerHTML = "";
    for (const part of this.parts) list.append(this.field(part));
  }

  private field(part: Part): HTMLElement {
    const { name, kind } = part.modality;
    const box = document.createElement("div");
    box.className = "modality";
    if (kind === "other") {
      box.innerHTML = '<p class="faint"></p>';
      box.firstElementChild!.textContent = say().cannotGive(name);
      return box;
    }
    box.innerHTML = '<label class="row switch"><span></span><input type="checkbox" role="switch" /></label>';
    box.querySelector("span")!.textContent = say().use(name);
    const present = box.querySelector("input")!;
    present.id = `present-${name}`;
    present.checked = part.present;
    present.addEventListener("change", () => {
      part.present = present.checked;
      this.changed();
    });
    if (kind === "text") {
      const text = document.createElement("input");
      Object.assign(text, { type: "text", value: part.text, placeholder: say().textHint, id: `text-${name}` });
      text.setAttribute("aria-label", name);
      const hint = document.createElement("p");
      hint.className = "faint";
      hint.setAttribute("role", "status");
      hint.textContent = wordsHint(part);
      text.addEventListener("input", () => {
        part.text = text.value;
        part.present = present.checked = text.value.trim() !== "";
        hint.textContent = wordsHint(part);
        this.changed();
      });
      box.append(text, hint);
    }
    return box;
  }
}

function wordsHint({ modality, text }: Part): string {
  const { unknown, cut } = encode(text, modality.words, modality.length);
  const hints = [];
  if (unknown.length) hints.push(say().unknownWords(unknown.join(", ")));
  if (cut) hints.push(say().cutWords(cut, modality.length));
  return hints.join(" ");
}
