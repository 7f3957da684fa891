/** Answers from the browser's own copy of the page, with the network and the server off. The build fills in the names. */
const PREFIX = "{{prefix}}";
const CACHE = `${PREFIX}{{version}}`;
const FILES = "{{files}}".split(" ");

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES.map((name) => new Request(name, { cache: "no-cache" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const others = (names) => names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(others(names).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  event.respondWith(
    caches.open(CACHE).then(async (cache) => {
      const found = await cache.match(event.request, { ignoreSearch: true });
      return found ?? new Response("Not part of this page.", { status: 404 });
    }),
  );
});
