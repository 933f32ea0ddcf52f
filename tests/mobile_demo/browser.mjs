// Headless Chromium on the page, for the tests in Python: node browser.mjs WEB CHROMIUM SCENARIO < arguments.json
//
// A scenario does what a person does and prints what the page showed. What is right is said in test_web.py.

import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [web, executablePath, scenario] = process.argv.slice(2);
const { chromium } = createRequire(`${web}/package.json`)("playwright-core");
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const PHONE = { width: 360, height: 740 };
const DESKTOP = { width: 1280, height: 800 };
const PATIENCE = 60_000; // milliseconds; the machine may be busy with other things

/** A page in a browser of its own, with an empty profile. */
async function withPage(action, { flags = [], ...options } = {}) {
  const profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    args: [...FLAGS, ...flags],
    headless: true,
    viewport: PHONE,
    locale: "en-US",
    ...options,
  });
  context.setDefaultTimeout(PATIENCE);
  const page = context.pages()[0] ?? (await context.newPage());
  const failures = [];
  page.on("pageerror", (error) => failures.push(String(error)));
  page.on("console", (message) => {
    if (/content security policy/i.test(message.text())) failures.push(message.text());
  });
  try {
    const seen = await action(page, context, await context.browser()?.newBrowserCDPSession());
    return { ...seen, failures };
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

const loaded = (page) => page.waitForFunction(() => window.kerasVit?.loaded());
const code = (page) => page.locator("#problem").getAttribute("data-code");
const idle = (page) => page.evaluate(() => window.kerasVit.idle());

async function open(page, url) {
  await page.goto(url);
  await loaded(page);
}

/** The numbers of the next answer after `action`. */
async function answered(page, action) {
  await page.evaluate(() => (window.before = window.kerasVit.answer()));
  await action();
  await page.waitForFunction(() => window.kerasVit.answer() && window.kerasVit.answer() !== window.before);
  return page.evaluate(() => [...window.kerasVit.answer().values]);
}

const show = (page, picture) => answered(page, () => page.setInputFiles("#file", picture));

async function problem(page, action) {
  await page.evaluate(() => delete document.getElementById("problem").dataset.code);
  await action();
  await page.waitForSelector("#problem[data-code]");
  await idle(page);
  return { code: await code(page), text: (await page.locator("#problem p").innerText()).trim() };
}

const choose = (page, name) =>
  page
    .locator("#files label")
    .filter({ has: page.getByText(name, { exact: true }) })
    .click();

/** Forwards to `target`, counts bytes, and can break: `limit` is the bytes after which a connection is cut. */
async function makeProxy(target) {
  const proxy = { bytes: 0, limit: Infinity, sockets: new Set() };
  const server = net.createServer((client) => {
    const upstream = net.connect(Number(new URL(target).port), "127.0.0.1");
    let sent = 0;
    for (const socket of [client, upstream]) {
      proxy.sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        proxy.sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream);
    upstream.on("data", (piece) => {
      proxy.bytes += piece.length;
      sent += piece.length;
      if (sent > proxy.limit) client.destroy();
      else client.write(piece);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  proxy.url = `http://localhost:${server.address().port}${new URL(target).pathname}`;
  proxy.close = () => {
    server.close();
    for (const socket of proxy.sockets) socket.destroy();
  };
  return proxy;
}

/** Elements that a person could not hit, read, or name. */
function complaints() {
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    let found = [0, 0, 0, 0];
    for (let e = element; e && found[3] < 1; e = e.parentElement) {
      const [r, g, b, a] = parse(getComputedStyle(e).backgroundColor);
      const share = a * (1 - found[3]);
      found = [found[0] + r * share, found[1] + g * share, found[2] + b * share, found[3] + share];
    }
    return found;
  };
  const visible = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getBoundingClientRect().width > 1;
  const name = (e) => e.id || e.className || e.textContent.trim().slice(0, 30) || e.tagName;
  const found = [];
  let checked = 0;
  for (const e of document.querySelectorAll("button, select, input[type=text], .files label, .switch")) {
    if (!visible(e)) continue;
    const { width, height } = e.getBoundingClientRect();
    if (width < 44 || height < 44) found.push(`small: ${name(e)} ${width}x${height}`);
    const said = e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim();
    if (!said) found.push(`nameless: ${name(e)}`);
    checked++;
  }
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !visible(e) || e.closest("option, .unseen")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push(`faint: ${name(e)} ${contrast.toFixed(2)}`);
    checked++;
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(`wide: ${document.documentElement.scrollWidth}`);
  for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) found.push(`no alt: ${e.src}`);
  return { found, checked };
}

/** What the relaxed dot product of four times 127 and -1 gives: it is left to the processor. */
async function dotProduct() {
  // i32x4.extract_lane 0 (i32x4.relaxed_dot_i8x16_i7x16_add_s (splat 127) (splat -1) (splat 0))
  const splats = [0x41, 0xff, 0, 0xfd, 0x0f, 0x41, 0x7f, 0xfd, 0x0f, 0x41, 0, 0xfd, 0x11];
  const body = [0, ...splats, 0xfd, 0x93, 2, 0xfd, 0x1b, 0, 0x0b];
  const code = [10, body.length + 2, 1, body.length, ...body];
  const head = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0, 7, 5, 1, 1, 0x66, 0, 0];
  const made = await WebAssembly.instantiate(new Uint8Array([...head, ...code])).catch(() => null);
  return made && made.instance.exports.f();
}

const scenarios = {
  /** Every picture by every file, one file the person's own. */
  async answers({ url, files, pictures, own }) {
    return withPage(async (page) => {
      await open(page, url);
      const first = await page.evaluate(() => window.kerasVit.loaded());
      const isolated = await page.evaluate(() => crossOriginIsolated);
      await show(page, pictures[0]);
      const answers = {};
      for (const file of [...files, ...own]) {
        const name = file.split("/").at(-1);
        if (own.includes(file)) await answered(page, () => page.setInputFiles("#file", file));
        else if (name !== (await page.evaluate(() => window.kerasVit.loaded())))
          await answered(page, () => choose(page, name.replace(".tflite", "")));
        answers[file] = [];
        for (const picture of pictures) answers[file].push(await show(page, picture));
      }
      return { first, isolated, answers, code: await code(page) };
    });
  },

  /** What the page shows of an answer, and the other ways to give it a picture. */
  /** What the page lists for each of `files`, and says of it aloud. */
  async rows({ url, picture, files }) {
    return withPage(async (page) => {
      await open(page, url);
      await show(page, picture);
      const seen = { rows: {}, bars: {}, spoken: {} };
      for (const name of files) {
        await choose(page, name);
        await page.waitForFunction((name) => window.kerasVit.loaded() === `${name}.tflite`, name);
        await idle(page);
        const list = page.locator("#answers li");
        seen.rows[name] = await list.evaluateAll((all) => all.map((e) => e.innerText.split("\n").filter(Boolean)));
        seen.bars[name] = await page.locator("#answers .bar:visible").count();
        seen.spoken[name] = await page.locator("#said").innerText();
      }
      return { ...seen, code: await code(page) };
    });
  },

  async showing({ url, picture, other }) {
    return withPage(async (page, context) => {
      await open(page, url);
      const before = await page.locator("#answers").innerText();
      await show(page, picture);
      const rows = () => page.locator("#answers li").evaluateAll((all) => all.map((e) => e.innerText.split("\n")));
      const seen = { before, rows: await rows(), speed: await page.locator("#speed").innerText() };
      seen.spoken = await page.locator("#said").innerText();
      seen.bars = await page
        .locator("#answers .bar")
        .evaluateAll((all) => all.map((e) => Number(e.style.getPropertyValue("--share"))));

      const give = (type) => `
        const [name, bytes] = given;
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
        dispatchEvent(new ${type === "paste" ? "ClipboardEvent" : "DragEvent"}("${type}",
          { ${type === "paste" ? "clipboardData" : "dataTransfer"}: data, bubbles: true, cancelable: true }));`;
      const run = (type) => page.evaluate(new Function("given", give(type)), other);
      seen.pasted = await answered(page, () => run("paste"));
      await show(page, picture);
      seen.dropped = await answered(page, () => run("drop"));

      // By keyboard alone: to the files, to the next one, and to the other language.
      await page.locator("#files input:checked").focus();
      await answered(page, () => page.keyboard.press("ArrowDown"));
      seen.byKeyboard = await page.evaluate(() => window.kerasVit.loaded());
      await page.click("#compare");
      await page.waitForFunction(() => !document.getElementById("compare").disabled);
      seen.compared = await page
        .locator("#files label")
        .evaluateAll((all) => all.map((e) => e.innerText.split("\n").filter(Boolean)));
      await page.locator("#language").focus();
      await page.keyboard.press("Enter");
      seen.chinese = {
        lang: await page.locator("html").getAttribute("lang"),
        camera: await page.locator("#camera").innerText(),
      };
      await page.reload();
      await loaded(page);
      seen.chineseAfterReload = await page.locator("#camera").innerText();
      await context.clearCookies();
      return seen;
    });
  },

  /** Chromium's fake camera shows a film; no camera, a blocked one, and a page that may not ask. */
  async camera({ url, film }) {
    const fake = ["--use-fake-device-for-media-stream", `--use-file-for-fake-video-capture=${film}`];
    const seen = await withPage(
      async (page) => {
        await open(page, url);
        await answered(page, () => page.click("#camera"));
        const first = await page.evaluate(() => [...window.kerasVit.answer().values]);
        await page.waitForFunction(() => / fps/.test(document.getElementById("speed").textContent));
        const speed = await page.locator("#speed").innerText();
        const label = await page.locator("#camera").innerText();
        const size = await page.locator("#video").evaluate((video) => [video.videoHeight, video.videoWidth]);
        await page.click("#camera");
        await page.waitForFunction(() => !document.getElementById("picture").hidden);
        await idle(page);
        const after = await page.evaluate(() => [...window.kerasVit.answer().values]);
        return { first, after, speed, label, size, code: await code(page) };
      },
      { flags: [...fake, "--use-fake-ui-for-media-stream"] },
    );
    const blocked = await withPage(
      async (page) => {
        await open(page, url);
        return problem(page, () => page.click("#camera"));
      },
      { flags: [...fake, "--deny-permission-prompts"] },
    );
    const { missing, insecure, usable } = await withPage(
      async (page) => {
        await open(page, url);
        const missing = await problem(page, () => page.click("#camera"));
        await open(page, url.replace("localhost", "phone.test"));
        const insecure = await problem(page, () => page.click("#camera"));
        await show(page, film.replace(/\.\w+$/, ".png"));
        return { missing, insecure, usable: await page.locator("#answers li").count() };
      },
      { flags: ["--use-fake-ui-for-media-stream", "--host-resolver-rules=MAP phone.test 127.0.0.1"] },
    );
    const flipped = await withPage(
      async (page) => {
        await open(page, url);
        await answered(page, () => page.click("#camera"));
        const mirrored = () => page.locator("#stage").evaluate((stage) => stage.classList.contains("mirrored"));
        const back = await mirrored();
        await page.click("#flip");
        await page.waitForFunction(() => document.getElementById("stage").classList.contains("mirrored"));
        await answered(page, () => {});
        return { back, front: await mirrored() };
      },
      { flags: ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream=device-count=2"] },
    );
    return { ...seen, blocked, missing, insecure, usable, flipped };
  },

  /** A model that also says what it looked at. */
  async attention({ url, own, picture }) {
    return withPage(async (page) => {
      await open(page, url);
      const before = await page.locator("#attention").isVisible();
      await show(page, picture);
      await answered(page, () => page.setInputFiles("#file", own));
      const offered = await page.locator("#attention").isVisible();
      const hidden = await page.locator("#attention-map").isHidden();
      await page.click("#attention");
      const pixels = await page.locator("#attention-map").evaluate((canvas) => {
        const { width, height } = canvas;
        return [...canvas.getContext("2d").getImageData(0, 0, width, height).data];
      });
      return { before, offered, hidden, pixels };
    });
  },

  /** The first visit, the second, one without a server, and a download that breaks off. */
  async offline({ url, picture, files, other }) {
    const proxy = await makeProxy(url);
    return withPage(async (page) => {
      await open(page, proxy.url);
      const answer = await show(page, picture);
      await page.evaluate(() => navigator.serviceWorker.ready);
      await page.waitForTimeout(500); // what is still on its way into the cache
      const first = proxy.bytes;
      proxy.bytes = 0;
      await page.reload();
      await loaded(page);
      const second = proxy.bytes;
      proxy.limit = 20_000; // the other file's download breaks off
      const broken = await problem(page, () => choose(page, other));
      proxy.limit = Infinity;
      const again = await answered(page, async () => {
        await page.setInputFiles("#file", picture);
        await choose(page, files[0]);
      });
      proxy.close();
      await page.reload();
      await loaded(page);
      const without = await show(page, picture);
      const missing = await problem(page, () => choose(page, other));
      const usable = await answered(page, () => choose(page, files[0]));
      return { answer, first, second, broken, again, without, missing, usable };
    });
  },

  /** Each bad thing, and after each that the page still answers. */
  async bad({ url, picture, models, pictures, labels }) {
    return withPage(async (page, context) => {
      await open(page, url);
      const expected = await show(page, picture);
      const seen = { models: {}, pictures: {}, same: [] };
      const still = async () => seen.same.push(JSON.stringify(await show(page, picture)) === JSON.stringify(expected));
      for (const model of models) {
        seen.models[model] = await problem(page, () => page.setInputFiles("#file", model));
        await page.waitForFunction(() => window.kerasVit.loaded());
        await idle(page);
        await still();
      }
      for (const bad of pictures) {
        seen.pictures[bad] = await problem(page, () => page.setInputFiles("#file", bad));
        await still();
      }
      seen.pasted = await problem(page, () =>
        page.evaluate(() => dispatchEvent(new ClipboardEvent("paste", { clipboardData: new DataTransfer() }))),
      );
      seen.labels = await problem(page, () => page.setInputFiles("#file", labels));
      seen.numbered = await page.locator("#answers .label").first().innerText();
      await page.click("#problem button");
      seen.closed = await page.locator("#problem").isHidden();
      return seen;
    });
  },

  /** A server without an export, one whose file is another than the manifest says, an old browser ... */
  async broken({ url, picture }) {
    return withPage(
      async (_, context) => {
        const fresh = async (prepare, wait = false) => {
          const page = await context.newPage();
          await prepare(page);
          await page.goto(url);
          await page.waitForSelector("#problem[data-code]");
          if (wait) await loaded(page);
          const text = await page.locator("#problem p").innerText();
          await page.click("#language");
          const translated = (await page.locator("#problem p").innerText()) !== text;
          await page.click("#language");
          const usable = wait ? (await show(page, picture)).length > 0 : await page.locator("#open-file").isEnabled();
          const found = { code: await code(page), text, usable: usable && translated };
          await page.close();
          return found;
        };
        const gone = (route) => route.fulfill({ status: 404, body: "" });
        const damage = async (route) => {
          const response = await route.fetch();
          const body = await response.body();
          body[body.length >> 1] ^= 1;
          await route.fulfill({ response, body });
        };
        const other = { status: 200, body: "no labels, but one line" };
        return {
          noExport: await fresh((page) => page.route("**/export/**", gone)),
          badManifest: await fresh((page) => page.route("**/manifest.json", (route) => route.fulfill({ body: "{ no" }))),
          noRuntime: await fresh((page) => page.route("**/wasm/**", gone)),
          missing: await fresh((page) => page.route("**/*.tflite*", gone)),
          changed: await fresh((page) => page.route("**/*.tflite*", damage)),
          labels: await fresh((page) => page.route("**/labels.txt", (route) => route.fulfill(other)), true),
          oldBrowser: await fresh((page) => page.addInitScript(() => (WebAssembly.validate = () => false))),
        };
      },
      { serviceWorkers: "block" },
    );
  },

  /** Words, switches, and what the page cannot give. */
  async multimodal({ url, picture, text, unknown }) {
    return withPage(async (page) => {
      await open(page, url);
      const hint = await page.locator("#progress").innerText();
      const words = await answered(page, () => page.fill("#text-text", text));
      const both = await show(page, picture);
      const pictureAlone = await answered(page, () => page.click("#present-text"));
      await answered(page, () => page.click("#present-text"));
      await page.click("#present-text");
      await page.click("#present-image");
      await idle(page);
      const nothing = await page.locator("#progress").innerText();
      await page.fill("#text-text", unknown);
      const hints = await page.locator(".modality .faint").allInnerTexts();
      const { found } = await page.evaluate(complaints);
      return { hint, words, both, pictureAlone, nothing, hints, complaints: found, code: await code(page) };
    });
  },

  /** Sizes, colours and names, on a phone and a desktop, light and dark, in both languages. */
  async looks({ url, picture }) {
    const seen = { complaints: {}, checked: 0 };
    for (const [screen, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
      const one = await withPage(
        async (page) => {
          const complaints_ = {};
          let checked = 0;
          await open(page, url);
          const look = async (name) => {
            const { found, checked: count } = await page.evaluate(complaints);
            complaints_[`${screen} ${name}`] = found;
            checked += count;
          };
          await look("empty");
          await show(page, picture);
          await page.evaluate(() => dispatchEvent(new ClipboardEvent("paste", { clipboardData: new DataTransfer() })));
          for (const colorScheme of ["light", "dark"]) {
            await page.emulateMedia({ colorScheme });
            await page.waitForTimeout(300); // transitions
            await look(colorScheme);
            await page.click("#language");
            await look(`${colorScheme}, Chinese`);
            await page.click("#language");
          }
          const boxes = {};
          for (const id of ["stage", "answers", "files"]) boxes[id] = await page.locator(`#${id}`).boundingBox();
          const manifest = await page.evaluate(async () => {
            const link = document.querySelector("link[rel=manifest]").href;
            const manifest = await (await fetch(link)).json();
            for (const icon of manifest.icons) {
              const image = await createImageBitmap(await (await fetch(new URL(icon.src, link))).blob()).catch(() => null);
              icon.real = image && `${image.width}x${image.height}`;
            }
            return manifest;
          });
          return { complaints: complaints_, checked, boxes, manifest };
        },
        { viewport },
      );
      Object.assign(seen.complaints, one.complaints);
      seen.checked += one.checked;
      seen.manifest = one.manifest;
      seen[screen] = one.boxes;
      seen.failures = [...(seen.failures ?? []), ...one.failures];
    }
    return seen;
  },

  /** Milliseconds of each file, in turns, on one thread, by the clock and of CPU. For browser_speed.py. */
  async speed({ url, picture, files, rounds, runs }) {
    return withPage(async (page, _, session) => {
      const cpu = async () => {
        const { processInfo } = await session.send("SystemInfo.getProcessInfo");
        return processInfo.filter(({ type }) => type === "renderer").reduce((sum, { cpuTime }) => sum + cpuTime, 0);
      };
      await open(page, url);
      await page.selectOption("#runs-on", "1");
      await idle(page);
      await show(page, picture);
      const seen = Object.fromEntries(files.map((file) => [file, { wall: [], cpu: [] }]));
      for (let round = 0; round < rounds; round++) {
        for (const file of files) {
          if (file !== (await page.evaluate(() => window.kerasVit.loaded())))
            await answered(page, () => choose(page, file.replace(".tflite", "")));
          await idle(page);
          const before = await cpu();
          const times = await page.evaluate(async (runs) => {
            const times = [];
            for (let run = 0; run < runs; run++) times.push((await window.kerasVit.again()).milliseconds);
            return times;
          }, runs);
          seen[file].wall.push(...times);
          seen[file].cpu.push((1000 * ((await cpu()) - before)) / runs);
        }
      }
      return { files: seen, device: await page.locator("#device").innerText(), dot: await page.evaluate(dotProduct) };
    });
  },

  /** Bytes of the first visit and of the second, by whether the page may use threads. For browser_speed.py. */
  async loads({ url, threads }) {
    const proxy = await makeProxy(url);
    const address = threads ? proxy.url : proxy.url.replace("localhost", "phone.test");
    return withPage(
      async (page) => {
        const visit = async () => {
          proxy.bytes = 0;
          await page.goto(address);
          await page.waitForFunction(() => document.getElementById("device").textContent !== "");
          await page.waitForTimeout(2000); // what is still on its way into the cache
          return proxy.bytes;
        };
        const [first, second] = [await visit(), await visit()];
        return { first, second, device: await page.locator("#device").innerText() };
      },
      { flags: ["--host-resolver-rules=MAP phone.test 127.0.0.1"] },
    );
  },

  /** A browser set to Chinese. */
  async chinese({ url }) {
    return withPage(
      async (page) => {
        await open(page, url);
        return { lang: await page.locator("html").getAttribute("lang"), title: await page.title() };
      },
      { locale: "zh-CN" },
    );
  },
};

const given = [];
for await (const piece of process.stdin) given.push(piece);
const seen = await scenarios[scenario](JSON.parse(Buffer.concat(given).toString()));
process.stdout.write(JSON.stringify(seen));
process.exit(0);
