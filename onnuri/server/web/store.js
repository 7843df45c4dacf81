/* What outlives a reload: settings in localStorage, the conversation's turns in IndexedDB. Knows not what is in them.
   Where the browser keeps nothing (private windows), the page works until it is closed. Two tabs share one
   conversation: of a turn, what was written last stays. */

const SETTINGS = "onnuri-settings";

export function loadSettings(defaults) {
  try {
    return { ...defaults, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return { ...defaults };
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch { /* see above */ }
}

export const loadTurns = () => transact("readonly", (turns) => turns.getAll()).then((found) => found ?? []);
export const saveTurn = (turn, index) => transact("readwrite", (turns) => turns.put(turn, index));
export const clearTurns = () => transact("readwrite", (turns) => turns.clear());

let opened;

async function transact(mode, work) {
  try {
    const database = await (opened ??= open());
    return await promised(work(database.transaction("turns", mode).objectStore("turns")));
  } catch {
    return undefined;
  }
}

function open() {
  const request = indexedDB.open("onnuri", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("turns");
  return promised(request);
}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
