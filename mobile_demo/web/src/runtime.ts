// The page's side of worker.ts: requests by name, and a new worker after one that failed.

import { Problem, type Code } from "./problem";
import type { Replies, Requests } from "./worker";

type Waiting = { resolve: (reply: any) => void; reject: (problem: Problem) => void };

export class Runtime {
  private worker: Worker | null = null;
  private waiting = new Map<number, Waiting>();
  private next = 0;

  /** Start, or start again with an empty memory. */
  start(): Promise<Replies["start"]> {
    this.end();
    this.worker = new Worker(new URL("./worker.ts", import.meta.url));
    this.worker.onmessage = ({ data: { id, reply, problem } }) => {
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (problem) waiting?.reject(new Problem(problem.code as Code, ...problem.details));
      else waiting?.resolve(reply);
    };
    this.worker.onerror = (event) => {
      const why = event.message || "worker";
      this.end(/memory|OOM/i.test(why) ? new Problem("outOfMemory", "LiteRT") : new Problem("unexpected", why));
    };
    return this.ask("start", {
      wasm: new URL("wasm/", document.baseURI).href,
      threads: self.crossOriginIsolated,
    });
  }

  ask<K extends keyof Requests>(action: K, request: Requests[K], transfer: Transferable[] = []): Promise<Replies[K]> {
    return new Promise((resolve, reject) => {
      if (!this.worker) return reject(new Problem("noRuntime"));
      const id = this.next++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, action, request }, transfer);
    });
  }

  private end(problem = new Problem("unexpected", "stopped")) {
    this.worker?.terminate();
    this.worker = null;
    for (const { reject } of this.waiting.values()) reject(problem);
    this.waiting.clear();
  }
}
