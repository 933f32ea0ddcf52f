// What a .tflite file says of its inputs and outputs, read from its flatbuffer without any runtime:
// names and shapes to check before a model is compiled, and the scales that LiteRT.js does not tell.
//
// The numbers are field slots of LiteRT's schema.fbs.

export type DType = "float32" | "int32" | "uint8" | "int8" | "other";

export interface TensorInfo {
  name: string; // in the signature
  shape: number[];
  dtype: DType;
  scale: number; // real = scale * (stored - zeroPoint); 0 for a tensor that is not quantized
  zeroPoint: number;
}

export interface Signature {
  key: string;
  inputs: TensorInfo[];
  outputs: TensorInfo[];
}

const DTYPES: Record<number, DType> = { 0: "float32", 2: "int32", 3: "uint8", 9: "int8" };

export function isTflite(file: Uint8Array): boolean {
  return file.length > 8 && String.fromCharCode(...file.subarray(4, 8)) === "TFL3";
}

/** The signatures of a model. Throws RangeError for a file that is cut short or damaged. */
export function signatures(file: Uint8Array): Signature[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const model = table(view, view.getUint32(0, true));
  const subgraphs = model.tables(2);
  return model.tables(7).map((signature) => {
    const tensors = subgraphs[signature.uint(4)].tables(0);
    const described = (maps: Table[]) =>
      maps.map((map) => describe(map.text(0), tensors[map.uint(1)]));
    return {
      key: signature.text(2),
      inputs: described(signature.tables(0)),
      outputs: described(signature.tables(1)),
    };
  });
}

function describe(name: string, tensor: Table): TensorInfo {
  const quantization = tensor.table(4);
  const scales = quantization?.floats(2) ?? [];
  return {
    name,
    shape: tensor.ints(0),
    dtype: DTYPES[tensor.byte(1)] ?? "other",
    scale: scales[0] ?? 0,
    zeroPoint: quantization?.longs(3)[0] ?? 0,
  };
}

interface Table {
  byte(slot: number): number;
  uint(slot: number): number;
  text(slot: number): string;
  ints(slot: number): number[];
  floats(slot: number): number[];
  longs(slot: number): number[];
  table(slot: number): Table | null;
  tables(slot: number): Table[];
}

function table(view: DataView, at: number): Table {
  const fields = at - view.getInt32(at, true);
  const field = (slot: number) => {
    const entry = 4 + slot * 2;
    const offset = entry < view.getUint16(fields, true) ? view.getUint16(fields + entry, true) : 0;
    return offset && at + offset;
  };
  const follow = (where: number) => where + view.getUint32(where, true);
  const vector = <T>(slot: number, size: number, read: (where: number) => T): T[] => {
    const where = field(slot);
    if (!where) return [];
    const start = follow(where);
    const length = view.getUint32(start, true);
    if (start + 4 + length * size > view.byteLength) throw new RangeError("a vector leaves the file");
    return Array.from({ length }, (_, i) => read(start + 4 + i * size));
  };
  return {
    byte: (slot) => (field(slot) ? view.getInt8(field(slot)) : 0),
    uint: (slot) => (field(slot) ? view.getUint32(field(slot), true) : 0),
    text: (slot) =>
      new TextDecoder().decode(new Uint8Array(vector(slot, 1, (where) => view.getUint8(where)))),
    ints: (slot) => vector(slot, 4, (where) => view.getInt32(where, true)),
    floats: (slot) => vector(slot, 4, (where) => view.getFloat32(where, true)),
    longs: (slot) => vector(slot, 8, (where) => Number(view.getBigInt64(where, true))),
    table: (slot) => (field(slot) ? table(view, follow(field(slot))) : null),
    tables: (slot) => vector(slot, 4, (where) => table(view, follow(where))),
  };
}
