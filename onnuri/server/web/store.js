/* What outlives a reload: settings in localStorage, the conversation's turns and votes in IndexedDB, each in a database of
   its own, as a second store in one would wait for tabs that have the older in use. Knows not what is in them.
   Where the browser keeps nothing (private windows), the page works until it is closed. Two tabs share one
   conversation: of a turn, what was written last stays. */

const SETTINGS = "onnuri-settings";
const DATABASES = { turns: "onnuri", votes: "onnuri-votes" };

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

export const loadTurns = () => transact("turns", "readonly", (turns) => turns.getAll()).then((found) => found ?? []);
export const saveTurn = (turn, index) => transact("turns", "readwrite", (turns) => turns.put(turn, index));
export const clearTurns = () => transact("turns", "readwrite", (turns) => turns.clear());
export const loadVotes = () => transact("votes", "readonly", (votes) => votes.getAll()).then((found) => found ?? []);
export const saveVote = (vote, id) => transact("votes", "readwrite", (votes) => votes.put(vote, id));
export const dropVote = (id) => transact("votes", "readwrite", (votes) => votes.delete(id));

const opened = {};

/** One request in a transaction of its own; a write is over when it is kept. */
async function transact(name, mode, work) {
  try {
    const database = await (opened[name] ??= open(name));
    const transaction = database.transaction(name, mode);
    const kept = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const found = promised(work(transaction.objectStore(name)));
    transaction.commit(); // at once: a page that is left a moment later takes back what waits for its next turn
    const [result] = await Promise.all([found, kept]);
    return result;
  } catch {
    return undefined;
  }
}

function open(name) {
  const request = indexedDB.open(DATABASES[name], 1);
  request.onupgradeneeded = () => request.result.createObjectStore(name);
  return promised(request);
}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
