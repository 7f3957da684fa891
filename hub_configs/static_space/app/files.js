/** Files from the dialog, a drop (folders too) or the clipboard. */

/** @typedef {{name: string, file: File}} Chosen */

const SUFFIX = /\.(dcm|dicom|dic|png|jpe?g)$/i;

/** @param {DataTransfer} transfer @returns {Promise<Chosen[]>} */
export async function droppedFiles(transfer) {
  // All entries at once: the browser empties the list after the event.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  if (!entries.length) return pastedFiles(transfer);
  return (await Promise.all(entries.map((entry) => filesOf(entry, true)))).flat();
}

/** @param {DataTransfer} transfer @returns {Chosen[]} */
export function pastedFiles(transfer) {
  return Array.from(transfer.files, (file) => ({ name: file.name, file }));
}

/** @param {FileSystemEntry} entry @param {boolean} given Whether it was dropped itself. @returns {Promise<Chosen[]>} */
async function filesOf(entry, given) {
  if (entry.isDirectory) {
    const children = await childrenOf(/** @type {FileSystemDirectoryEntry} */ (entry));
    const found = await Promise.all(children.map((child) => filesOf(child, false)));
    return found.flat().sort((a, b) => (a.name < b.name ? -1 : 1));
  }
  const file = await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
  const name = given ? entry.name : entry.fullPath.slice(1);
  return given || (await isRadiograph(file)) ? [{ name, file }] : [];
}

/** @param {FileSystemDirectoryEntry} folder @returns {Promise<FileSystemEntry[]>} */
async function childrenOf(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some); // at most 100 at a time
  }
}

/** By the suffix, or the DICOM magic bytes with any other name. @param {File} file @returns {Promise<boolean>} */
async function isRadiograph(file) {
  if (file.name.startsWith(".") || file.name.toUpperCase() === "DICOMDIR") return false;
  if (SUFFIX.test(file.name)) return true;
  return (await file.slice(128, 132).text()) === "DICM";
}
