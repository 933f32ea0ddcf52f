// Takes the pictures in this folder: keras-vit demo-app EXPORT_DIR --port 8000 &
//     node take.mjs http://localhost:8000/ picture.jpg [chromium]
//
// Phone and desktop, light and dark, one of them in Chinese, with every model file tried; on the dark desktop with
// the attention, where the file has it. Reduced afterwards to 256 colours by Pillow:
// image.convert("RGB").quantize(256, kmeans=4).save(file, optimize=True)

import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [url, picture, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const { chromium } = createRequire(join(here, "../web/package.json"))("playwright-core");
const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 1.5 };
const DESKTOP = { viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1 };
const SHOTS = {
  "phone-light": { ...PHONE, colorScheme: "light" },
  "phone-dark": { ...PHONE, colorScheme: "dark", locale: "zh-CN" },
  "desktop-light": { ...DESKTOP, colorScheme: "light" },
  "desktop-dark": { ...DESKTOP, colorScheme: "dark" },
};

const browser = await chromium.launch({ executablePath, args: ["--headless", "--no-sandbox", "--disable-gpu"] });
for (const [name, options] of Object.entries(SHOTS)) {
  const page = await browser.newPage({ locale: "en-US", ...options });
  await page.goto(url);
  await page.waitForFunction(() => window.kerasVit?.loaded());
  await page.selectOption("#runs-on", "1");
  await page.waitForFunction(() => window.kerasVit.loaded());
  await page.setInputFiles("#file", picture);
  await page.waitForFunction(() => window.kerasVit.answer());
  await page.click("#compare");
  await page.waitForFunction(() => !document.getElementById("compare").disabled);
  await page.evaluate(() => window.kerasVit.idle());
  if (name === "desktop-dark" && (await page.locator("#attention").isVisible())) await page.click("#attention");
  await page.mouse.move(0, 0);
  await page.evaluate(() => scrollTo(0, 0));
  await page.waitForTimeout(500); // the bars glide
  await page.screenshot({ path: join(here, `${name}.png`) });
  await page.close();
}
await browser.close();
