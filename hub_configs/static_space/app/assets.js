/** The files that the page is made of: beside it on a server, or inside it in the single-file version. */

/** @param {string} name @returns {Promise<ArrayBuffer>} */
export async function asset(name) {
  const embedded = document.getElementById(`asset:${name}`);
  if (embedded !== null) return gunzip(embedded.textContent ?? "");
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`The file ${name} of this page is missing (status ${answer.status}). Copy the page again.`);
  return answer.arrayBuffer();
}

/** @param {string} name @returns {Promise<string>} */
export async function textAsset(name) {
  return new TextDecoder().decode(await asset(name));
}

/** @param {string} base64 @returns {Promise<ArrayBuffer>} */
async function gunzip(base64) {
  const letters = atob(base64.trim());
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
