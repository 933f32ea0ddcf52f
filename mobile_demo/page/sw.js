// The service worker: after the first visit the page works without a network.
//
// SHELL and VERSION are filled in by vite.config.ts. The shell comes from the cache, the export's manifest and
// labels from the network while there is one, and LiteRT's wasm and the models from the cache once they were
// used: a model's address has its checksum, so a new export is never mistaken for an old one.

const SHELL = ["./","app.webmanifest","assets/index.css","assets/index.js","assets/worker.js","icon-192.png","icon-512.png","icon.svg"];
const VERSION = "b8415e327527";
const LITERT = "2.5.3";

const CACHES = { shell: `shell-${VERSION}`, litert: `litert-${LITERT}`, exports: "exports" };
const address = (path) => new URL(path, self.registration.scope).href;

self.addEventListener("install", (event) => {
  const fill = async () => {
    const cache = await caches.open(CACHES.shell);
    await cache.addAll(SHELL.map((path) => new Request(address(path), { cache: "reload" })));
    await self.skipWaiting();
  };
  event.waitUntil(fill());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    const kept = Object.values(CACHES);
    const names = await caches.keys();
    await Promise.all(names.filter((name) => !kept.includes(name)).map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  if (request.mode === "navigate") {
    event.respondWith(cached("shell", address("./")).then((found) => found ?? fetch(request)));
  } else if (url.href.startsWith(address("wasm/"))) {
    event.respondWith(cacheFirst(event, "litert"));
  } else if (url.searchParams.has("v")) {
    event.respondWith(cacheFirst(event, "exports"));
  } else {
    event.respondWith(cached("shell", request).then((found) => found ?? networkFirst(event)));
  }
});

async function cached(name, request) {
  return (await caches.open(CACHES[name])).match(request);
}

async function cacheFirst(event, name) {
  return (await cached(name, event.request)) ?? fetchAndKeep(event, name);
}

async function networkFirst(event) {
  try {
    return await fetchAndKeep(event, "exports");
  } catch (error) {
    const found = await cached("exports", event.request);
    if (found) return found;
    throw error;
  }
}

async function fetchAndKeep(event, name) {
  const response = await fetch(event.request);
  if (response.ok) event.waitUntil(keep(event.request, response.clone(), name));
  return response;
}

/** A download that breaks off, or a full disk, keeps nothing. */
async function keep(request, response, name) {
  const cache = await caches.open(CACHES[name]);
  try {
    await cache.put(request, response);
  } catch {
    return;
  }
  // Only the newest version of a model stays.
  const older = await cache.keys(request, { ignoreSearch: true });
  await Promise.all(older.filter(({ url }) => url !== request.url).map((old) => cache.delete(old)));
}
